"""The pages: the built web app from inside the package, or how to build it."""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

WEB_DIST = Path(__file__).parent.parent / "web_dist"

_NOT_BUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Mooring</title>
<body style="font-family:system-ui;max-width:40rem;margin:4rem auto;line-height:1.5">
<h1>Mooring is running</h1>
<p>The API answers at <code>/v1</code>. The chat page is not built in this checkout: with Node 20, run
<code>make web</code> and reload.</p>
<p lang="zh">接口在 <code>/v1</code> 可用。聊天页面尚未构建：安装 Node 20 后运行 <code>make web</code>，然后刷新。</p>
</body></html>"""

# The page needs nothing from anywhere else, and nobody may frame it.
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class _Pages(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_HEADERS)
        path = str(args[0])
        hashed = "assets" in Path(path).parts
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response


async def _explain(_: Request) -> Response:
    return HTMLResponse(_NOT_BUILT, headers={"cache-control": "no-cache"})


def create_pages(folder: Path = WEB_DIST) -> ASGIApp:
    if (folder / "index.html").is_file():
        return Starlette(routes=[Mount("/", _Pages(directory=folder, html=True))])
    return Starlette(routes=[Route("/", _explain)])
