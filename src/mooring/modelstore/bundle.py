"""Bundles: models in one file that a host without a network can verify and import.

A bundle is a tar file (any ``tar`` lists it) of plain members in a fixed order: ``index.json``, then each blob
as ``blobs/sha256-<hex>`` in the order of the index. The index holds every manifest as text and every blob's
digest and size; nothing else may be in the file. The same models always give the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from mooring.errors import DigestMismatch, InvalidModelFile, InvalidParameter, StoreError
from mooring.modelstore.blobs import writing
from mooring.modelstore.manifest import Digest, Manifest, Size
from mooring.modelstore.model import Model, describe, portable
from mooring.modelstore.names import ModelName
from mooring.modelstore.store import ModelStore
from mooring.types import Progress, ProgressFn, ignore_progress

_FORMAT = "mooring-bundle"
_VERSION = 1
_INDEX = "index.json"
_INDEX_LIMIT = 64 * 1024 * 1024  # bytes
_BLOCK = 512
_CHUNK = 4 * 1024 * 1024
_END = b"\0" * (2 * _BLOCK)


class _Blob(msgspec.Struct, frozen=True):
    digest: Digest
    size: Size

    @property
    def member(self) -> str:
        return f"blobs/{self.digest.replace(':', '-')}"


class _Entry(msgspec.Struct, frozen=True):
    name: str
    manifest: str


class _Index(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    version: int
    models: list[_Entry]
    blobs: list[_Blob]


# Export


def export(
    store: ModelStore, names: Iterable[str | ModelName], out: Path, progress: ProgressFn = ignore_progress
) -> None:
    """Write models, by-reference ones with their files, to ``out``; it appears only when it is complete.

    Raises ModelNotFound, StoreError for missing, BrokenReference for changed files, DigestMismatch for a
    damaged blob, DiskFull.
    """
    with contextlib.ExitStack() as held:
        entries: list[_Entry] = []
        contents: dict[_Blob, Path | bytes] = {}
        for model in [store.get(name) for name in names]:
            held.enter_context(store.use(model))
            store.check(model, progress)
            raw, config = portable(store.blobs, store.manifest(model.name))
            manifest, name = Manifest.from_bytes(raw), model.name
            entries.append(_Entry(f"{name.host}/{name.namespace}/{name.model}:{name.tag}", raw.decode()))
            contents.setdefault(_Blob(manifest.config.digest, manifest.config.size), config)
            paths = {file.digest: file.path for file in model.files}
            for layer in manifest.layers:
                path = paths.get(layer.digest) or store.blobs.path(layer.digest)
                contents.setdefault(_Blob(layer.digest, layer.size), path)
        _write_bundle(out, entries, contents, progress)


def _write_bundle(
    out: Path, entries: list[_Entry], contents: dict[_Blob, Path | bytes], progress: ProgressFn
) -> None:
    index = _Index(format=_FORMAT, version=_VERSION, models=entries, blobs=list(contents))
    data = msgspec.json.encode(index)
    meter = _Meter("exporting", sum(blob.size for blob in contents), progress)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    with writing(out.parent):
        try:
            with partial.open("xb") as file:
                file.write(_header(_INDEX, len(data)) + data + _padding(len(data)))
                for blob, content in contents.items():
                    _write_blob(file, blob, content, meter)
                file.write(_END)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(out)
        except FileNotFoundError as error:
            raise StoreError(
                f"Cannot write {out}: there is no folder {out.parent}; make it first."
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def _write_blob(file: BinaryIO, blob: _Blob, content: Path | bytes, meter: _Meter) -> None:
    file.write(_header(blob.member, blob.size))
    hasher = hashlib.sha256()
    with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
        while chunk := source.read(_CHUNK):
            hasher.update(chunk)
            file.write(chunk)
            meter.reach(meter.done + len(chunk))
    if f"sha256:{hasher.hexdigest()}" != blob.digest:
        raise DigestMismatch(
            f"{content!s} is damaged: it is no longer what its name says. Pull its model again."
        )
    file.write(_padding(blob.size))


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)  # sizes above 8 GiB in base 256


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


@dataclass(slots=True)
class _Meter:
    status: str
    total: int
    progress: ProgressFn
    done: int = 0

    def reach(self, done: int) -> None:
        self.done = done
        self.progress(Progress(status=self.status, total=self.total, completed=self.done))


# Import


def import_(store: ModelStore, bundle: Path, progress: ProgressFn = ignore_progress) -> list[Model]:
    """Verify a bundle and add its models; each appears only when all of it is here and sound.

    Models of the same names are replaced. Raises InvalidModelFile for anything but an intact bundle,
    DigestMismatch for altered content, DiskFull; blobs of models that did not become complete are removed.
    """
    try:
        file = bundle.open("rb")
    except OSError as error:
        raise InvalidParameter("bundle", f"cannot read {bundle}: {error.strerror}") from error
    with file:
        reader = _Reader(file, bundle.name)
        return _Import(store, reader, reader.index(), progress).run()


@dataclass(slots=True)
class _Import:
    store: ModelStore
    reader: _Reader
    index: _Index
    progress: ProgressFn
    models: list[Model] = field(default_factory=list)

    def run(self) -> list[Model]:
        waiting = [(entry, _checked_manifest(entry)) for entry in self.index.models]
        self._check_blobs([manifest for _, manifest in waiting])
        self.reader.check_size(self.index)
        blobs = self.store.blobs
        missing = [blob for blob in self.index.blobs if not blobs.has(blob.digest, blob.size)]
        blobs.require_space(sum(blob.size for blob in missing))
        meter, here = (
            _Meter("importing", sum(blob.size for blob in self.index.blobs), self.progress),
            set[str](),
        )
        try:
            with blobs.use(blob.digest for blob in self.index.blobs):
                for blob in self.index.blobs:
                    self._take(blob, meter, wanted=blob in missing)
                    here.add(blob.digest)
                    waiting = [pair for pair in waiting if not self._publish(*pair, here)]
        finally:
            self.store.discard(blob.digest for blob in missing)
        return self.models

    def _check_blobs(self, manifests: list[Manifest]) -> None:
        """Raises InvalidModelFile unless the index lists exactly the blobs that the manifests need."""
        needed = {(la.digest, la.size) for man in manifests for la in (man.config, *man.layers)}
        listed = [(blob.digest, blob.size) for blob in self.index.blobs]
        if set(listed) != needed or len({digest for digest, _ in listed}) != len(listed):
            raise self.reader.invalid("its list of blobs is not what its models need")

    def _take(self, blob: _Blob, meter: _Meter, *, wanted: bool) -> None:
        self.reader.expect(blob.member, blob.size)
        start = meter.done
        if wanted:
            self.store.blobs.add_stream(
                self.reader.file,
                blob.size,
                "application/octet-stream",
                lambda step: meter.reach(start + step.completed),
                digest=blob.digest,
            )
        else:
            self.reader.skip(blob.size)
            meter.reach(start + blob.size)
        self.reader.skip(-blob.size % _BLOCK)

    def _publish(self, entry: _Entry, manifest: Manifest, here: set[str]) -> bool:
        """Add the model if all its blobs are here; its weights must be what they are said to be."""
        if not all(layer.digest in here for layer in (manifest.config, *manifest.layers)):
            return False
        describe(self.store.blobs, manifest.layers)
        self.models.append(self.store.publish_manifest(entry.name, entry.manifest.encode()))
        return True


def _checked_manifest(entry: _Entry) -> Manifest:
    """Raises InvalidModelFile for a manifest that points outside the bundle, InvalidParameter for a bad name."""
    ModelName.parse(entry.name)
    manifest = Manifest.from_bytes(entry.manifest.encode())
    if any(layer.reference for layer in (manifest.config, *manifest.layers)):
        raise InvalidModelFile(
            f"The bundle's model '{entry.name}' refers to a file outside it, which is refused."
        )
    for layer in manifest.layers:
        _ = layer.title  # raises for a name that leads out of the model's folder
    return manifest


class _Reader:
    """Reads exactly what ``export`` writes: plain members, in the index's order. Anything else is refused."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self._name = file, name
        self._size = file.seek(0, 2)
        file.seek(0)

    def index(self) -> _Index:
        """Raises InvalidModelFile."""
        if self._size < 2 * _BLOCK:
            raise self.invalid("it is too short")
        name, size = self._member()
        if name != _INDEX or not 0 < size <= min(_INDEX_LIMIT, self._size - _BLOCK):
            raise self.invalid(f"it does not begin with {_INDEX}")
        try:
            index = msgspec.json.decode(self.file.read(size), type=_Index)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self.invalid(f"its index is damaged ({error})") from error
        if index.format != _FORMAT or not index.models:
            raise self.invalid("its index is another program's")
        if index.version != _VERSION:
            raise self.invalid(
                f"it has version {index.version}, and this Mooring reads {_VERSION}; update Mooring"
            )
        self.skip(-size % _BLOCK)
        return index

    def check_size(self, index: _Index) -> None:
        """Hold the file's size against the index: only zeros may follow the last blob."""
        end = self.file.tell() + sum(_BLOCK + blob.size + -blob.size % _BLOCK for blob in index.blobs)
        if end + len(_END) > self._size:
            raise self.invalid(
                f"{end + len(_END):,} bytes were exported, but it has {self._size:,}: it is cut short"
            )
        start, left = self.file.tell(), self._size - end
        self.file.seek(end)
        if left > _CHUNK or self.file.read().strip(b"\0"):
            raise self.invalid("something that its index does not name follows its last blob")
        self.file.seek(start)

    def expect(self, name: str, size: int) -> None:
        """Step over the header of the member that must come next."""
        found = self._member()
        if found != (name, size):
            raise self.invalid(f"where {name} should be is '{found[0][:100]}', {found[1]:,} bytes long")

    def skip(self, count: int) -> None:
        self.file.seek(count, 1)

    def _member(self) -> tuple[str, int]:
        """Name and size of the plain file whose tar header comes next."""
        try:
            header = tarfile.TarInfo.frombuf(self.file.read(_BLOCK), "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self.invalid(f"it is damaged ({error})") from error
        if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise self.invalid(f"its member '{header.name[:100]}' is not a plain file")
        return header.name, header.size

    def invalid(self, problem: str) -> InvalidModelFile:
        return InvalidModelFile(
            f"{self._name} is not a usable bundle: {problem}. Nothing incomplete was kept; copy the bundle again, "
            f"or make it anew with `mooring export`."
        )
