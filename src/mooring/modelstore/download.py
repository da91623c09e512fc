"""Files from the network into blobs: verified, published atomically, and shared between pulls.

Whoever gathers a file holds the blob's download lock; others wait for it and then find the blob.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from yarl import URL

from mooring.egress import Egress
from mooring.errors import DigestMismatch
from mooring.modelstore.blobs import BlobStore, hash_file, writing
from mooring.modelstore.gather import Gathering, Line, RemoteFile, State, state_path
from mooring.modelstore.manifest import Layer
from mooring.modelstore.tasks import held, on_this_loop, together
from mooring.types import Progress, ProgressFn


async def fetch(
    egress: Egress, files: Sequence[RemoteFile], blobs: BlobStore, *, connections: int, progress: ProgressFn
) -> list[Layer]:
    """Every file as a blob, in the order given; their layers carry the file names as titles.

    Raises SourceError (host, status, what to try), DigestMismatch (the partial file is removed), DiskFull (the
    partial file stays, to be resumed), OfflineError. Cancelling is safe at any point.
    """
    downloader = Downloader(egress, blobs, connections=connections, progress=progress)
    slots = asyncio.Semaphore(connections)

    async def one(file: RemoteFile) -> Layer:
        async with slots:
            return await downloader.blob(file)

    return await together(one(file) for file in files)


class Downloader:
    """Fetches files with at most ``connections`` requests under way."""

    def __init__(self, egress: Egress, blobs: BlobStore, *, connections: int, progress: ProgressFn) -> None:
        self.blobs = blobs
        self.progress = on_this_loop(progress)
        self._line = Line(egress, blobs, connections, asyncio.Semaphore(connections), self.progress)

    async def blob(self, file: RemoteFile) -> Layer:
        """The file as a published blob."""
        if layer := self._here(file, file.digest, file.size):
            return layer
        async with self._gathering(file) as (gathering, partial):
            if layer := self._here(file, file.digest, file.size):
                return layer
            if layer := self._here(file, await gathering.known_digest(), None):
                return layer
            await gathering.run()
            size = partial.stat().st_size
            digest = file.digest or await asyncio.to_thread(hash_file, partial, lambda _: None)
            try:
                await asyncio.to_thread(self.blobs.publish, partial, digest, self.progress)
            except DigestMismatch:
                gathering.forget()
                raise
            gathering.finish(digest)
            return _layer(file, digest, size)

    @asynccontextmanager
    async def temporary(self, file: RemoteFile) -> AsyncIterator[Path]:
        """The file, verified but no blob, for the block; kept for the next try if the block fails."""
        async with self._gathering(file) as (gathering, partial):
            await gathering.run()
            self.progress(Progress(status="verifying", digest=file.digest))
            found = await asyncio.to_thread(hash_file, partial, lambda _: None)
            if file.digest and found != file.digest:
                partial.unlink()
                gathering.forget()
                raise DigestMismatch(
                    f"{file.label} from {URL(file.url).host} is {found}, but {file.digest} was promised. It was "
                    f"damaged on the way or changed at its source, and has been removed; pull again."
                )
            yield partial
            partial.unlink()
            gathering.forget()

    async def derived(
        self, key: str, files: Sequence[RemoteFile], make: Callable[[list[Path]], Awaitable[list[Layer]]]
    ) -> list[Layer]:
        """The blobs that ``make`` makes of downloaded files, which are removed afterwards.

        Under one ``key`` the work is done once: a receipt beside the partial files names the result.
        """
        receipt = state_path(self.blobs.partial(key))
        async with held(self.blobs.download_lock(key), lambda: self._waiting(files)):
            if layers := self._received(receipt):
                return layers
            async with AsyncExitStack() as stack:
                paths = [await stack.enter_async_context(self.temporary(file)) for file in files]
                layers = await make(paths)
            with writing(receipt.parent):
                receipt.write_bytes(msgspec.json.encode(layers))
            return layers

    def _received(self, receipt: Path) -> list[Layer]:
        try:
            layers = msgspec.json.decode(receipt.read_bytes(), type=list[Layer])
        except (FileNotFoundError, msgspec.DecodeError):
            return []
        return layers if all(self.blobs.has(layer.digest, layer.size) for layer in layers) else []

    @asynccontextmanager
    async def _gathering(self, file: RemoteFile) -> AsyncIterator[tuple[Gathering, Path]]:
        """Hold the file's download lock, waiting for another's download of it."""
        partial = self.blobs.partial(file.key)
        async with held(self.blobs.download_lock(file.key), lambda: self._waiting([file])):
            yield Gathering(self._line, file, partial), partial

    def _waiting(self, files: Sequence[RemoteFile]) -> None:
        """Report how far another pull of these files is."""
        for file in files:
            if state := State.read(state_path(self.blobs.partial(file.key))):
                self.progress(
                    Progress(
                        status=f"waiting for another pull of {file.label}",
                        digest=file.digest,
                        total=state.size or file.size or 0,
                        completed=state.completed,
                    )
                )

    def _here(self, file: RemoteFile, digest: str, size: int | None) -> Layer | None:
        if not digest or not self.blobs.has(digest, size):
            return None
        found = self.blobs.path(digest).stat().st_size
        self.progress(Progress(status=f"pulling {file.label}", digest=digest, total=found, completed=found))
        return _layer(file, digest, found)


def _layer(file: RemoteFile, digest: str, size: int) -> Layer:
    layer = Layer(file.media_type, digest, size)
    return layer.with_title(file.filename) if file.filename else layer


__all__ = ["Downloader", "RemoteFile", "fetch"]
