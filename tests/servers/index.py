"""A double of a package index: simple API in JSON or HTML, and wheels built in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from dataclasses import dataclass, field

from aiohttp import web

_JSON = "application/vnd.pypi.simple.v1+json"


def build_wheel(package: str, version: str, files: dict[str, bytes], *, lie: str = "") -> bytes:
    """A wheel of ``files``; the RECORD hash of the file ``lie`` is wrong."""
    buffer, info = io.BytesIO(), f"{package}-{version}.dist-info"
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        rows = []
        for path, data in files.items():
            wheel.writestr(path, data)
            digest = hashlib.sha256(data + (b"lie" if path == lie else b"")).digest()
            rows.append(f"{path},sha256={base64.urlsafe_b64encode(digest).decode().rstrip('=')},{len(data)}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]))
    return buffer.getvalue()


@dataclass
class IndexDouble:
    """``wheels``: file name → bytes, all of one ``package``."""

    package: str
    wheels: dict[str, bytes]
    yanked: tuple[str, ...] = ()
    html: bool = False
    wrong_hash: bool = False
    downloads: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/simple/{package}/", self._page)
        app.router.add_get("/files/{name}", self._file)
        return app

    def _hash(self, data: bytes) -> str:
        return hashlib.sha256(data + (b"x" if self.wrong_hash else b"")).hexdigest()

    async def _page(self, request: web.Request) -> web.Response:
        if request.match_info["package"] != self.package:
            return web.Response(status=404)
        if self.html:
            anchors = [
                f'<a href="../../files/{name}#sha256={self._hash(data)}"'
                f"{' data-yanked=' if name in self.yanked else ''}>{name}</a>"
                for name, data in self.wheels.items()
            ]
            return web.Response(text=f"<html>{''.join(anchors)}</html>", content_type="text/html")
        files = [
            {
                "filename": name,
                "url": f"../../files/{name}",
                "hashes": {"sha256": self._hash(data)},
                "size": len(data),
                "yanked": name in self.yanked,
            }
            for name, data in self.wheels.items()
        ]
        return web.json_response({"meta": {"api-version": "1.0"}, "files": files}, content_type=_JSON)

    async def _file(self, request: web.Request) -> web.Response:
        if "Range" not in request.headers or not request.headers["Range"].endswith("-0"):
            self.downloads.append(request.match_info["name"])
        return web.Response(body=self.wheels[request.match_info["name"]])
