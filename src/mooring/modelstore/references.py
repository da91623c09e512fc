"""Models by reference: files used where they lie, held to the size, time and digest they had when added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mooring.errors import BrokenReference, InvalidModelFile, InvalidParameter
from mooring.modelstore.blobs import hash_file
from mooring.modelstore.formats import folder_files, inspect_files
from mooring.modelstore.manifest import FILE_TYPE, MODEL_TYPE, Layer, Reference
from mooring.modelstore.model import Model, ModelFile
from mooring.modelstore.names import ModelName
from mooring.types import Progress, ProgressFn, ignore_progress

if TYPE_CHECKING:
    from mooring.modelstore.store import ModelStore


def add_reference(
    store: ModelStore, name: str | ModelName, path: Path, progress: ProgressFn = ignore_progress
) -> Model:
    """Add a ``.gguf`` file or a folder of safetensors as it lies, without copying it; it is hashed once.

    Raises InvalidParameter for a path that is neither, InvalidModelFile for damaged files.
    """
    path = path.expanduser().resolve()
    if path.is_dir():
        files, media_type = folder_files(path), FILE_TYPE
    elif path.is_file():
        files, media_type = {path.name: path}, MODEL_TYPE
    else:
        raise InvalidParameter("model", f"there is no file or folder {path}")
    info = inspect_files(files)
    if path.is_file() and info.format.value != "gguf":
        raise InvalidModelFile(f"{path.name} is one file of a model; give the folder it is in: {path.parent}")
    layers = reference_layers(files, media_type, progress)
    return store.publish(name, layers, source=f"file:{path}", info=info)


def reference_layers(files: dict[str, Path], media_type: str, progress: ProgressFn) -> list[Layer]:
    """Hash files (file name → path) and describe them as by-reference layers."""
    return [_reference_layer(path.resolve(), title, media_type, progress) for title, path in files.items()]


def _reference_layer(path: Path, title: str, media_type: str, progress: ProgressFn) -> Layer:
    before = path.stat()

    def step(done: int) -> None:
        progress(Progress(status="hashing", total=before.st_size, completed=done))

    digest = hash_file(path, step)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BrokenReference(f"{path} changed while it was read; add it again when it is complete.")
    layer = Layer(media_type, digest, after.st_size).with_title(title)
    return layer.with_reference(Reference(path, after.st_size, after.st_mtime_ns))


def stale_references(
    files: Iterable[ModelFile], progress: ProgressFn = ignore_progress
) -> dict[str, Reference]:
    """Check every by-reference file; returns digest → new state of those merely touched since they were added.

    A file whose time changed is hashed again. Raises BrokenReference for one that moved or changed.
    """
    touched: dict[str, Reference] = {}
    for file in files:
        if file.reference is None:
            continue
        try:
            state = file.path.stat()
        except OSError as error:
            raise BrokenReference(
                f"{file.path} is gone ({error.strerror}); put it back, or remove the model and add it again."
            ) from error
        if state.st_size == file.size and state.st_mtime_ns == file.reference.mtime_ns:
            continue
        if state.st_size != file.size or _digest(file, progress) != file.digest:
            raise BrokenReference(
                f"{file.path} changed since it was added; put the old file back, or add the model again."
            )
        touched[file.digest] = Reference(file.path, file.size, state.st_mtime_ns)
    return touched


def _digest(file: ModelFile, progress: ProgressFn) -> str:
    return hash_file(
        file.path, lambda done: progress(Progress(status="hashing", total=file.size, completed=done))
    )
