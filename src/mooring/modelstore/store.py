"""The store of models: names → manifests → blobs, in Ollama's layout on disk.

``manifests/<host>/<namespace>/<model>/<tag>`` is JSON that names blobs; ``blobs/`` holds them; ``links/`` holds
folders of links for engines that open directories; ``locks/`` and ``tmp/`` hold what only running processes need.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath

import msgspec

from mooring.errors import Conflict, InvalidParameter, ModelNotFound, StoreError
from mooring.modelstore.blobs import STORE_LOCK, BlobStore, sync_folder, writing
from mooring.modelstore.manifest import CONFIG_TYPE, ImageConfig, Layer, Manifest, needed_blobs, sha256_digest
from mooring.modelstore.model import Model, ModelFile, describe, read_model
from mooring.modelstore.names import DEFAULT_TAG, ModelName
from mooring.modelstore.references import stale_references
from mooring.types import ModelInfo, ProgressFn, ignore_progress

__all__ = ["Model", "ModelFile", "ModelStore"]

_TEMPORARY_GRACE = 24 * 3600.0  # seconds; a younger file of tmp/ may be another process's


class ModelStore:
    """The models under ``root``. Any number of processes may share it; all methods block on the disk.

    ``problems`` says what the last ``list`` could not read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root)
        self.problems: list[str] = []

    # Reading

    def list(self) -> list[Model]:
        """All models, by name. What cannot be read is told in ``problems`` and left out."""
        models, self.problems = [], []
        for path in self._manifest_files():
            label = "/".join(path.parts[-4:])
            try:
                models.append(self._read(self._name(path), path))
            except (StoreError, InvalidParameter) as error:
                self.problems.append(f"{label}: {error.message}")
            except FileNotFoundError:
                continue  # removed by another process since the folder was read
            except OSError as error:
                self.problems.append(f"{label}: {error.strerror}")
        return sorted(models, key=lambda model: model.name.key)

    def get(self, name: str | ModelName) -> Model:
        """The model of that name; without a tag also the only one that there is of it.

        Raises ModelNotFound with the nearest names, InvalidParameter for what is no name, InvalidModelFile
        or StoreError for a damaged model.
        """
        path = self._find(name)
        try:
            return self._read(self._name(path), path)
        except FileNotFoundError as error:
            raise ModelNotFound(str(name)) from error

    def manifest(self, name: str | ModelName) -> bytes:
        """The manifest as it is on disk. Raises ModelNotFound."""
        try:
            return self._find(name).read_bytes()
        except FileNotFoundError as error:
            raise ModelNotFound(str(name)) from error

    def describe(self, layers: Sequence[Layer]) -> ModelInfo:
        """Read what the files of a model to be published say of it. Raises InvalidModelFile, StoreError."""
        return describe(self.blobs, [*layers])

    def check(self, model: Model, progress: ProgressFn = ignore_progress) -> None:
        """Make sure that the model's files are there and unchanged; files outside are hashed if touched.

        Raises BrokenReference, StoreError for a missing blob.
        """
        for file in model.files:
            if file.reference is None and not self.blobs.has(file.digest, file.size):
                raise StoreError(
                    f"{file.filename} of '{model.name}' is missing from the store or cut short; pull it again."
                )
        if touched := stale_references(model.files, progress):
            manifest = Manifest.from_bytes(self.manifest(model.name))
            layers = [
                layer.with_reference(touched[layer.digest]) if layer.digest in touched else layer
                for layer in manifest.layers
            ]
            self.publish_manifest(model.name, msgspec.structs.replace(manifest, layers=layers).to_bytes())

    # Writing

    def publish(
        self,
        name: str | ModelName,
        layers: Sequence[Layer],
        *,
        source: str,
        info: ModelInfo,
        requires: str = "",
    ) -> Model:
        """Give ``layers`` a name, in one step; a model of that name is replaced, and blobs only it had go.

        Raises Conflict if a blob was removed meanwhile, InvalidModelFile if what is named so could not be read
        back, DiskFull.
        """
        config = ImageConfig.describe(info, [*layers], source=source, requires=requires)
        stored = self.blobs.add_bytes(config.to_bytes(), CONFIG_TYPE)
        return self.publish_manifest(name, Manifest(config=stored, layers=[*layers]).to_bytes())

    def publish_manifest(self, name: str | ModelName, raw: bytes) -> Model:
        """Publish a manifest as it is, its config and layers being in the store. Raises as ``publish``."""
        name = ModelName.parse(name) if isinstance(name, str) else name
        manifest, digests = Manifest.from_bytes(raw), needed_blobs(raw)
        temporary = self.root / "tmp" / uuid.uuid4().hex
        with writing(self.root):
            try:
                _write(temporary, raw)
                with self.blobs.lock(STORE_LOCK):
                    self._require_blobs(name, manifest)
                    model = read_model(self.blobs, name, raw, 0)
                    target = self._existing(name) or self.root / "manifests" / name.path
                    replaced = needed_blobs(target.read_bytes()) if target.exists() else set()
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary.replace(target)
                    sync_folder(target.parent)
                    self._drop(replaced - digests)
            finally:
                temporary.unlink(missing_ok=True)
        return dataclasses.replace(model, modified_at=_modified_at(target))

    def copy(self, source: str | ModelName, target: str | ModelName) -> Model:
        """Give a model a second name. Raises ModelNotFound."""
        return self.publish_manifest(target, self.manifest(source))

    def remove(self, name: str | ModelName) -> int:
        """Remove a model; returns the bytes freed.

        Blobs that other models need stay, and so do those in use, until their last user is done.
        Raises ModelNotFound.
        """
        with writing(self.root), self.blobs.lock(STORE_LOCK):
            path = self._find(name)
            digests = needed_blobs(path.read_bytes())
            path.unlink()
            self._remove_empty(path.parent)
            return self._drop(digests)

    def discard(self, digests: Iterable[str]) -> int:
        """Delete those of these blobs that no model needs and nobody uses; returns the bytes freed."""
        with writing(self.root), self.blobs.lock(STORE_LOCK):
            return self._drop(set(digests))

    def prune(self) -> int:
        """Delete what crashes left behind: unneeded blobs, links, temporary files; returns the bytes freed."""
        with writing(self.root), self.blobs.lock(STORE_LOCK):
            for path in (self.root / "tmp").glob("*"):
                if time.time() - path.stat().st_mtime > _TEMPORARY_GRACE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._drop_links()
            return self.blobs.prune(self._needed())

    @contextmanager
    def use(self, model: Model) -> Iterator[None]:
        """Keep the model's files while the block runs, even if the model is removed meanwhile.

        Raises Conflict if it has been removed already.
        """
        digests = {model.digest, *(file.digest for file in model.files)}
        try:
            with self.blobs.use(digests):
                if not all(file.path.exists() for file in model.files):
                    raise Conflict(
                        f"Files of '{model.name}' are gone; run `mooring pull {model.name}` again."
                    )
                yield
        finally:
            self.discard(digests)

    def materialise(self, model: Model) -> Path:
        """A folder with the model's files under their own names, as links (copies where links cannot be).

        Raises DiskFull.
        """
        folder = self.root / "links" / model.digest.partition(":")[2]
        if all((folder / file.filename).exists() for file in model.files):
            return folder
        building = self.root / "tmp" / uuid.uuid4().hex
        with writing(self.root):
            try:
                for file in model.files:
                    _link(file.path, building / PurePath(file.filename))
                with self.blobs.lock(STORE_LOCK):
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    if folder.is_dir():  # another process was first, or the store was moved
                        shutil.rmtree(folder)
                    building.rename(folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return folder

    # Parts

    def _read(self, name: ModelName, path: Path) -> Model:
        return read_model(self.blobs, name, path.read_bytes(), _modified_at(path))

    def _manifest_files(self) -> Sequence[Path]:
        paths = [self.root / "manifests"]
        for _ in range(4):
            paths = [child for path in paths for child in _children(path)]
        return [path for path in paths if path.is_file()]

    def _name(self, path: Path) -> ModelName:
        return ModelName.from_path(path.relative_to(self.root / "manifests"))

    def _names(self) -> dict[ModelName, Path]:
        names = {}
        for path in self._manifest_files():
            try:
                names[self._name(path)] = path
            except InvalidParameter:
                continue  # not a model's; ``list`` tells of it
        return names

    def _existing(self, name: ModelName) -> Path | None:
        path = self.root / "manifests" / name.path
        return path if path.is_file() else self._names().get(name)

    def _find(self, name: str | ModelName) -> Path:
        """The manifest of ``name``; of a text without a tag, also that of the model's only tag."""
        wanted = ModelName.parse(name) if isinstance(name, str) else name
        if path := self._existing(wanted):
            return path
        names = self._names()
        same = [known for known in names if known.key[:3] == wanted.key[:3]]
        untagged = isinstance(name, str) and ":" not in name.rpartition("/")[2]
        if untagged and wanted.tag == DEFAULT_TAG and len(same) == 1:
            return names[same[0]]
        texts = {known.short.casefold(): known.short for known in names}
        near = difflib.get_close_matches(str(name).casefold(), texts, n=3, cutoff=0.5)
        nearest = dict.fromkeys([*sorted(known.short for known in same), *(texts[text] for text in near)])
        raise ModelNotFound(str(name), list(nearest))

    def _require_blobs(self, name: ModelName, manifest: Manifest) -> None:
        for layer in (manifest.config, *manifest.layers):
            if layer.reference is None and not self.blobs.has(layer.digest, layer.size):
                raise Conflict(f"A blob of '{name}' was removed while it was being added; try again.")

    def _needed(self) -> set[str]:
        return set().union(*(needed_blobs(path.read_bytes()) for path in self._manifest_files()))

    def _drop(self, digests: set[str]) -> int:
        """Delete those of ``digests`` that no model needs and nobody uses. Call under the store's lock."""
        if not digests:
            return 0
        freed = self.blobs.delete(digests - self._needed())
        self._drop_links()
        return freed

    def _drop_links(self) -> None:
        """Delete the folders of links that belong to no model and to no process. Call under the store's lock."""
        folders = list((self.root / "links").glob("*"))
        if not folders:
            return
        kept = {sha256_digest(path.read_bytes()) for path in self._manifest_files()} | self.blobs.in_use()
        for folder in folders:
            if f"sha256:{folder.name}" not in kept:
                shutil.rmtree(folder)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.root / "manifests" and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []  # removed by another process since its parent was read, or a stray file


def _modified_at(path: Path) -> int:
    return path.stat().st_mtime_ns // 1_000_000


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(target: Path, link: Path) -> None:
    """Link to a file: symbolic, else (Windows without the right to) hard, else (another disk) a copy."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(target.resolve())
    except (OSError, NotImplementedError):
        try:
            link.hardlink_to(target)
        except OSError:
            shutil.copyfile(target, link)
