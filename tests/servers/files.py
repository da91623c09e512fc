"""A file server with Range support, and every fault a download must survive."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

_CHUNK = 16 * 1024


@dataclass
class Fault:
    """One answer that goes wrong: a status (with headers), or a reset after ``cut`` bytes of the body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class FileServer:
    """Serves ``content`` at every path.

    ``rate`` is in bytes per second and connection; ``sent`` counts how often each KiB of the content was sent;
    ``faults`` are used up in order by the requests for more than one byte.
    """

    content: bytes
    ranges: bool = True
    etag: str = '"first"'
    rate: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    lengths: bool = True
    requests: list[web.Request] = field(default_factory=list)
    sent: Counter[int] = field(default_factory=Counter)
    peak: int = 0
    _open: int = 0

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.answer)
        return app

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self._open += 1
        self.peak = max(self.peak, self._open)
        try:
            return await self._answer(request)
        except ConnectionError:  # the client went away
            raise asyncio.CancelledError from None
        finally:
            self._open -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        first, last, ranged = self._span(request)
        fault = self.faults.pop(0) if self.faults and (last - first > 1 or not ranged) else Fault()
        if fault.status:
            return web.Response(status=fault.status, headers=fault.headers)
        response = web.StreamResponse(status=206 if ranged else 200, headers={"ETag": self.etag})
        if ranged:
            response.headers["Content-Range"] = f"bytes {first}-{last - 1}/{len(self.content)}"
        if self.lengths:
            response.content_length = last - first
        await response.prepare(request)
        await self._send(request, response, first, last, fault.cut)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, first: int, last: int, cut: int | None
    ) -> None:
        for start in range(first, last, _CHUNK):
            if cut is not None and start - first >= cut:
                assert request.transport is not None
                request.transport.abort()
                return
            end = min(start + _CHUNK, last)
            await response.write(self.content[start:end])
            self.sent.update(range(start // 1024, -(-end // 1024)))
            if self.rate:
                await asyncio.sleep((end - start) / self.rate)
        await response.write_eof()

    def _span(self, request: web.Request) -> tuple[int, int, bool]:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        current = request.headers.get("If-Range", self.etag) == self.etag
        if match is None or not self.ranges or not current:
            return 0, len(self.content), False
        return int(match[1]), min(int(match[2]) + 1, len(self.content)), True
