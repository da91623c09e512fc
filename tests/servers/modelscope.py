"""A double of ModelScope: the list of files with sha256, and downloads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class ModelScopeDouble:
    repo: str
    files: dict[str, bytes]
    token: str = ""
    seen: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/v1/models/{org}/{name}/repo/files", self._list)
        app.router.add_get("/models/{org}/{name}/resolve/{revision}/{path:.+}", self._file)
        return app

    def _allowed(self, request: web.Request) -> bool:
        self.seen.append(request.path)
        repo = f"{request.match_info['org']}/{request.match_info['name']}"
        return repo == self.repo and (not self.token or request.cookies.get("m_session_id") == self.token)

    async def _list(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return web.json_response(
                {"Code": 10010205001, "Message": "model not found", "Success": False}, status=404
            )
        folders = {path.rpartition("/")[0] for path in self.files} - {""}
        entries: list[dict[str, object]] = [{"Path": folder, "Type": "tree", "Size": 0} for folder in folders]
        entries += [
            {
                "Path": path,
                "Name": path.rpartition("/")[2],
                "Type": "blob",
                "Size": len(data),
                "Sha256": hashlib.sha256(data).hexdigest(),
            }
            for path, data in self.files.items()
        ]
        return web.json_response({"Code": 200, "Success": True, "Data": {"Files": entries}})

    async def _file(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return web.Response(status=404)
        return web.Response(body=self.files[request.match_info["path"]])
