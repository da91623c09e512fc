"""``push``: a model of the store into an OCI registry, as Ollama lays models out.

Specification: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
from yarl import URL

from mooring.config import Settings
from mooring.egress import NETWORK_ERRORS, TRANSIENT_STATUS, Backoff, Egress, explain, retry_after
from mooring.errors import InvalidParameter, SourceError
from mooring.modelstore.gather import refusal
from mooring.modelstore.manifest import ImageConfig, Layer, Manifest, sha256_digest
from mooring.modelstore.names import ModelName
from mooring.modelstore.sources.oci import Registry
from mooring.modelstore.store import ModelStore
from mooring.modelstore.tasks import on_this_loop
from mooring.types import Progress, ProgressFn, ignore_progress

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class _Content:
    """A blob to send: from a file, or from memory."""

    digest: str
    size: int
    path: Path | None
    data: bytes = b""


async def push(
    store: ModelStore,
    egress: Egress,
    settings: Settings,
    name: str,
    *,
    progress: ProgressFn = ignore_progress,
) -> str:
    """Upload the model to the registry that its name's host is; returns the manifest's digest there.

    Blobs that the registry has are not sent; by-reference files are sent from where they lie, and neither
    paths nor local sources of this machine leave it. Raises ModelNotFound, BrokenReference, SourceError,
    OfflineError.
    """
    progress = on_this_loop(progress)
    model = await asyncio.to_thread(store.get, name)
    await asyncio.to_thread(store.check, model, progress)
    with store.use(model):
        manifest, config = _portable(store, model.name)
        paths = {file.digest: file.path for file in model.files}
        registry = Registry(egress, settings, model.name.host)
        pusher = _Pusher(egress, registry, model.name, _mount_from(model.source, model.name), progress)
        for layer in manifest.layers:
            path = paths.get(layer.digest) or store.blobs.path(layer.digest)
            await pusher.blob(_Content(layer.digest, layer.size, path))
        await pusher.blob(_Content(manifest.config.digest, manifest.config.size, None, config))
        return await pusher.manifest(manifest)


def _portable(store: ModelStore, name: ModelName) -> tuple[Manifest, bytes]:
    """The manifest and its config without what only means something on this machine."""
    manifest = Manifest.from_bytes(store.manifest(name)).plain()
    raw = store.blobs.path(manifest.config.digest).read_bytes()
    config = ImageConfig.from_bytes(raw)
    if config.mooring.source.startswith("file:"):
        provenance = msgspec.structs.replace(config.mooring, source="")
        raw = msgspec.structs.replace(config, mooring=provenance).to_bytes()
    stored = Layer(manifest.config.media_type, sha256_digest(raw), len(raw))
    return msgspec.structs.replace(manifest, config=stored), raw


def _mount_from(source: str, name: ModelName) -> str:
    """The repository of the same registry that the model was pulled from; "" if there is none."""
    if not source.startswith("ollama:"):
        return ""
    try:
        origin = ModelName.parse(source.removeprefix("ollama:"))
    except InvalidParameter:
        return ""
    here = origin.host.casefold() == name.host.casefold() and origin.key[:3] != name.key[:3]
    return f"{origin.namespace}/{origin.model}" if here else ""


class _Pusher:
    def __init__(
        self, egress: Egress, registry: Registry, name: ModelName, mount_from: str, progress: ProgressFn
    ) -> None:
        self._egress = egress
        self._registry = registry
        self._name = name
        self._mount_from = mount_from
        self._progress = progress

    async def blob(self, content: _Content) -> None:
        """Make sure that the registry has a blob."""
        self._report(content, 0)
        head = await self._registry.call(
            "HEAD",
            self._registry.url(self._name, f"blobs/{content.digest}"),
            what="a blob",
            expect=(200, 404),
        )
        if head.status == 404:
            await self._send(content)
        self._report(content, content.size)

    async def manifest(self, manifest: Manifest) -> str:
        self._progress(Progress(status="pushing manifest"))
        raw = manifest.to_bytes()
        await self._registry.call(
            "PUT",
            self._registry.url(self._name, f"manifests/{quote(self._name.tag)}"),
            what=f"the manifest of {self._name}",
            headers={"Content-Type": manifest.media_type},
            data=raw,
            expect=(200, 201, 202),
        )
        self._progress(Progress(status="success"))
        return sha256_digest(raw)

    async def _send(self, content: _Content) -> None:
        backoff = Backoff()
        while True:
            where = await self._begin(content)
            if where is None:
                return
            error: BaseException | None = None
            after: float | None = None
            try:
                status, after = await self._put(where, content)
            except NETWORK_ERRORS as failure:
                status, error = 0, failure
            if status in (200, 201, 204):
                return
            if status == 401:
                await self._registry.sign_in()
            elif status and status not in TRANSIENT_STATUS:
                raise SourceError(refusal(str(where), status, "an upload", self._registry.login))
            if not await backoff.wait(error, after):
                raise SourceError(explain(where, error or f"HTTP {status} for an upload"))

    async def _begin(self, content: _Content) -> URL | None:
        """Where to send the blob; None if the registry could take it from another of its repositories."""
        mount = f"?mount={content.digest}&from={quote(self._mount_from)}" if self._mount_from else ""
        reply = await self._registry.call(
            "POST",
            self._registry.url(self._name, f"blobs/uploads/{mount}"),
            what=f"uploading to {self._name}",
            expect=(201, 202),
        )
        if reply.status == 201:
            return None
        location = reply.headers.get("Location")
        if location is None:
            raise SourceError(explain(reply.url, "does not say where to upload"))
        return reply.url.join(URL(location, encoded=True)).update_query({"digest": content.digest})

    async def _put(self, where: URL, content: _Content) -> tuple[int, float | None]:
        own = where.origin() == URL(self._registry.base).origin()
        headers = {
            **(self._registry.authorization if own else {}),
            "Content-Type": "application/octet-stream",
            "Content-Length": str(content.size),
        }
        async with self._egress.request("PUT", where, headers=headers, data=self._body(content)) as response:
            return response.status, retry_after(response)

    async def _body(self, content: _Content) -> AsyncIterator[bytes]:
        if content.path is None:
            yield content.data
            return
        sent = 0
        with content.path.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, _CHUNK):
                yield chunk
                sent += len(chunk)
                self._report(content, sent)

    def _report(self, content: _Content, sent: int) -> None:
        self._progress(Progress(status="pushing", digest=content.digest, total=content.size, completed=sent))


__all__ = ["push"]
