"""One file on its way from a URL to a partial file: parallel parts, retried, resumed after any interruption.

What is known of it lies beside the partial file (``…-partial.json``): its size, its validator and how far each
part has come.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import aiohttp
import msgspec

from mooring.egress import NETWORK_ERRORS, TRANSIENT_STATUS, Backoff, Egress, explain, retry_after
from mooring.errors import SourceError
from mooring.modelstore.blobs import BlobStore, writing
from mooring.modelstore.tasks import together
from mooring.types import Progress, ProgressFn

T = TypeVar("T")

_MIB = 1 << 20
_PART_MIN, _PART_MAX = 1 * _MIB, 64 * _MIB
# How much a kill may cost: what was neither written nor noted yet.
_WRITE_BYTES, _WRITE_SECONDS = 1 * _MIB, 0.1
_SAVE_SECONDS = _REPORT_SECONDS = 0.1
_RESTARTS = 3
_RENEWALS = 2  # of a sign-in, without a byte in between
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file to fetch. ``sha256`` is in hex; where a source gives none, the URL stands for the content.

    ``filename`` may have ``/`` in it, and is "" for what is no file to an engine (a template, a licence);
    ``refresh`` gives new headers after a 401; ``login`` says how to sign in.
    """

    url: str
    filename: str
    media_type: str
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    refresh: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    login: str = ""

    @property
    def digest(self) -> str:
        """``sha256:…``, or "" if it is not known beforehand."""
        return f"sha256:{self.sha256}" if self.sha256 else ""

    @property
    def label(self) -> str:
        """What people are told of it."""
        return self.filename or self.media_type.rpartition(".")[2]

    @property
    def key(self) -> str:
        return self.digest or self.url


@dataclass(frozen=True, slots=True)
class Line:
    """What the downloads of one pull share. ``requests`` bounds the requests under way."""

    egress: Egress
    blobs: BlobStore
    connections: int
    requests: asyncio.Semaphore
    progress: ProgressFn


class State(msgspec.Struct):
    """``done[i]`` bytes of part i are on disk. ``size`` is None while a server does not say.

    ``digest`` is set when the file was published under a URL's key: then the parts are history.
    """

    size: int | None
    validator: str
    ranged: bool
    part_size: int
    done: list[int]
    digest: str = ""

    @classmethod
    def plan(cls, size: int | None, validator: str, *, ranged: bool, connections: int) -> Self:
        if not ranged or not size:
            return cls(size, validator, ranged, size or 0, [0])
        part = min(_PART_MAX, max(_PART_MIN, -(-size // (connections * 4))))
        return cls(size, validator, ranged, part, [0] * -(-size // part))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (FileNotFoundError, PermissionError, msgspec.DecodeError):
            return None

    def write(self, path: Path) -> None:
        temporary = path.with_name(path.name + ".tmp")
        with writing(path.parent):
            temporary.write_bytes(msgspec.json.encode(self))
            temporary.replace(path)

    def continues(self, plan: State) -> bool:
        """Whether what is on disk is a part of what ``plan`` would fetch."""
        same = (self.size, self.validator, self.ranged) == (plan.size, plan.validator, plan.ranged)
        return same and self.ranged and not self.digest

    def span(self, part: int) -> tuple[int, int]:
        """First and past-the-last byte of a part."""
        start = part * self.part_size
        return start, min(start + self.part_size, self.size or 0)

    @property
    def completed(self) -> int:
        return sum(self.done)


class _Changed(Exception):
    """The file at the source is not the one that was begun."""


class _Passing(Exception):
    """A fault that may pass."""

    def __init__(self, problem: str, after: float | None) -> None:
        super().__init__(problem)
        self.after = after


class Gathering:
    """One file on its way to ``partial``. The caller holds its download lock.

    Raises SourceError, DiskFull (what is there stays, to be resumed), OfflineError.
    """

    def __init__(self, line: Line, file: RemoteFile, partial: Path) -> None:
        self._line = line
        self._file = file
        self._headers = dict(file.headers)
        self._partial = partial
        self._state_path = state_path(partial)
        self._state: State | None = None
        self._probed: State | None = None
        self._saved = self._reported = 0.0
        self._renewing = asyncio.Lock()
        self._renewals, self._renewed_at = 0, -1

    async def known_digest(self) -> str:
        """The digest under which the same file of the same URL was published before; "" if it was not."""
        state = State.read(self._state_path)
        if self._file.digest or state is None or not state.digest or not state.validator:
            return ""
        probed = await self._probe()
        return state.digest if (state.size, state.validator) == (probed.size, probed.validator) else ""

    async def run(self) -> None:
        for _ in range(_RESTARTS):
            try:
                await self._attempt()
            except _Changed:
                self._probed = None
                self.forget()
            else:
                return
        raise SourceError(
            explain(self._file.url, f"{self._file.label} keeps changing while it is fetched; try again later")
        )

    def forget(self) -> None:
        self._state_path.unlink(missing_ok=True)

    def finish(self, digest: str) -> None:
        """After publishing: nothing to keep, but for a URL the digest that it stood for."""
        if self._file.digest or self._state is None:
            self.forget()
        else:
            self._state.digest = digest
            self._state.write(self._state_path)

    async def _attempt(self) -> None:
        plan, before = await self._probe(), State.read(self._state_path)
        if before is not None and before.continues(plan) and self._partial.exists():
            self._state = state = before
        else:
            self._state = state = plan
            with writing(self._partial.parent):
                self._partial.write_bytes(b"")
        if state.size is not None:
            self._line.blobs.require_space(state.size - state.completed)
        self._save(force=True)
        self._report(force=True)
        if state.ranged:
            parts = iter(range(len(state.done)))
            await together(self._work(parts) for _ in range(min(len(state.done), self._line.connections)))
        else:
            await self._retrying(self._stream, monotone=False)
        self._report(force=True)

    async def _probe(self) -> State:
        """What the server has and can, by asking for one byte; small known files are simply fetched."""
        if self._probed is None:
            file = self._file
            if file.digest and file.size is not None and file.size <= _PART_MIN:
                self._probed = State.plan(file.size, "", ranged=False, connections=1)
            else:
                self._probed = await self._retrying(self._ask, monotone=False)
        return msgspec.structs.replace(self._probed, done=[0] * len(self._probed.done))

    async def _ask(self) -> State:
        async with self._request({"Range": "bytes=0-0"}) as response:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            ranged = response.status == 206 and match is not None
            length = int(match[3]) if ranged and match else response.content_length
            size = length if response.status != 416 else 0
            if self._file.size is not None and size not in (None, self._file.size):
                raise SourceError(
                    explain(
                        self._file.url,
                        f"{self._file.label} has {size} bytes there, but {self._file.size} were promised",
                    )
                )
            validator = "" if self._file.digest else _validator(response)
            size = self._file.size if size is None else size
            return State.plan(size, validator, ranged=ranged, connections=self._line.connections)

    async def _work(self, parts: Iterable[int]) -> None:
        for part in parts:
            await self._retrying(lambda part=part: self._fetch_part(part), monotone=True)  # type: ignore[misc]

    async def _fetch_part(self, part: int) -> None:
        state = self._require_state()
        start, end = state.span(part)
        if start + state.done[part] >= end:
            return
        headers = {"Range": f"bytes={start + state.done[part]}-{end - 1}"}
        if state.validator:
            headers["If-Range"] = state.validator
        async with self._request(headers) as response:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status != 206 or match is None:
                raise _Changed
            if (int(match[1]), int(match[3])) != (start + state.done[part], state.size):
                raise _Changed
            await self._write_body(response, part, start, end)
        if start + state.done[part] < end:
            raise _Passing("the connection was closed early", None)

    async def _stream(self) -> None:
        """The whole file by one plain GET, from the start: what remains for servers without ranges."""
        state = self._require_state()
        state.done = [0]
        with writing(self._partial.parent):
            self._partial.write_bytes(b"")
        async with self._request({}) as response:
            if response.status == 416:
                raise SourceError(explain(self._file.url, "it answers a plain request with status 416"))
            await self._write_body(response, 0, 0, state.size)
        if state.size is not None and state.done[0] != state.size:
            raise _Passing("the connection was closed early", None)

    async def _write_body(
        self, response: aiohttp.ClientResponse, part: int, start: int, end: int | None
    ) -> None:
        state, buffer, flushed = self._require_state(), bytearray(), time.monotonic()

        async def flush() -> None:
            await asyncio.to_thread(_write_at, self._partial, start + state.done[part], bytes(buffer))
            state.done[part] += len(buffer)
            buffer.clear()
            self._save()
            self._report()

        try:
            async for chunk in response.content.iter_any():
                if end is not None and start + state.done[part] + len(buffer) + len(chunk) > end:
                    raise SourceError(
                        explain(self._file.url, f"sends more of {self._file.label} than it said")
                    )
                buffer += chunk
                if len(buffer) >= _WRITE_BYTES or time.monotonic() - flushed > _WRITE_SECONDS:
                    await flush()
                    flushed = time.monotonic()
        finally:
            if buffer:
                await flush()
            self._save(force=True)

    def _save(self, *, force: bool = False) -> None:
        state, now = self._require_state(), time.monotonic()
        if force or now - self._saved > _SAVE_SECONDS:
            state.write(self._state_path)
            self._saved = now

    def _report(self, *, force: bool = False) -> None:
        state, now = self._require_state(), time.monotonic()
        if force or now - self._reported > _REPORT_SECONDS:
            self._reported = now
            self._line.progress(
                Progress(
                    status=f"pulling {self._file.label}",
                    digest=self._file.digest,
                    total=state.size or 0,
                    completed=state.completed,
                )
            )

    def _require_state(self) -> State:
        assert self._state is not None
        return self._state

    async def _retrying(self, attempt: Callable[[], Awaitable[T]], *, monotone: bool) -> T:
        """``attempt`` until it succeeds, with back-off; ``monotone``: each try starts where the last ended."""
        backoff = Backoff()
        while True:
            before = self._state.completed if self._state else 0
            try:
                return await attempt()
            except (_Passing, *NETWORK_ERRORS) as error:
                if monotone and self._require_state().completed > before:
                    backoff.succeeded()
                after = error.after if isinstance(error, _Passing) else None
                if not await backoff.wait(error, after):
                    raise SourceError(
                        f"{explain(self._file.url, error)} What was fetched is kept: pull again to go on."
                    ) from error

    async def _renewed(self, used: Mapping[str, str]) -> bool:
        """After a 401 to the headers ``used``: whether there are newer ones to try."""
        async with self._renewing:
            if used is not self._headers:
                return True  # another part renewed them meanwhile
            come = self._state.completed if self._state else 0
            self._renewals = self._renewals + 1 if come == self._renewed_at else 1
            self._renewed_at = come
            if self._file.refresh is None or self._renewals > _RENEWALS:
                return False
            self._headers = {**self._file.headers, **await self._file.refresh()}
            return True

    @asynccontextmanager
    async def _request(self, headers: dict[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answered GET: 200, 206 or 416. Raises _Passing or SourceError for any other status."""
        file = self._file
        async with self._line.requests:
            signed = self._headers
            sent = {**signed, **headers, "Accept-Encoding": "identity"}
            async with self._line.egress.request("GET", file.url, headers=sent) as response:
                status = response.status
                if status == 401 and await self._renewed(signed):
                    raise _Passing("the sign-in expired", None)
                if status in TRANSIENT_STATUS:
                    raise _Passing(f"HTTP status {status}", retry_after(response))
                if status not in (200, 206, 416):
                    raise SourceError(refusal(file.url, status, file.label, file.login))
                yield response


def refusal(url: str, status: int, what: str, login: str = "") -> str:
    """The words for an HTTP status that ends a try."""
    if status in (401, 403):
        return explain(url, f"HTTP {status}, access to {what} denied") + (f" {login}" if login else "")
    return explain(url, f"no {what} there (HTTP 404)" if status == 404 else f"HTTP {status} for {what}")


def state_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _validator(response: aiohttp.ClientResponse) -> str:
    """What If-Range takes (RFC 9110 §13.1.5): a strong ETag, else the date of the last change."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with writing(path.parent), path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


__all__ = ["Gathering", "Line", "RemoteFile", "State", "refusal", "state_path"]
