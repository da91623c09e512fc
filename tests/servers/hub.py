"""A double of the Hugging Face Hub: repositories with commits, LFS files on a CDN, tokens, gated ones.

Trusted because huggingface_hub's own client completes against it (tests/modelstore/test_hub.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class HubDouble:
    """``files`` of one repository; those of ``lfs`` suffixes lie on the CDN, whose host is ``localhost``."""

    repo: str
    files: dict[str, bytes]
    commit: str = "c" * 40
    token: str = ""
    lfs: tuple[str, ...] = (".gguf", ".safetensors", ".bin")
    seen: list[tuple[str, str]] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/models/{org}/{name}", self._info)
        app.router.add_get("/api/models/{org}/{name}/revision/{revision}", self._info)
        app.router.add_get("/{org}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        app.router.add_get("/cdn/{sha256}", self._cdn)
        return app

    def _refusal(self, request: web.Request) -> web.Response | None:
        repo = f"{request.match_info['org']}/{request.match_info['name']}"
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response(
                {"error": "Access to this model is restricted"},
                status=401,
                headers={
                    "X-Error-Code": "GatedRepo",
                    "X-Error-Message": "Access to this model is restricted",
                },
            )
        revision = request.match_info.get("revision", "main")
        if repo != self.repo or revision not in ("main", self.commit):
            code = "RepoNotFound" if repo != self.repo else "RevisionNotFound"
            return web.json_response({"error": "not found"}, status=404, headers={"X-Error-Code": code})
        return None

    def _sibling(self, path: str, data: bytes) -> dict[str, Any]:
        sibling: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_blob(data)}
        if path.endswith(self.lfs):
            sha256 = hashlib.sha256(data).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
        return sibling

    async def _info(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path))
        if refusal := self._refusal(request):
            return refusal
        blobs = request.query.get("blobs", "").lower() == "true"
        siblings = [self._sibling(p, d) if blobs else {"rfilename": p} for p, d in self.files.items()]
        return web.json_response(
            {
                "_id": "0" * 24,
                "id": self.repo,
                "modelId": self.repo,
                "sha": self.commit,
                "private": False,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    async def _resolve(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path))
        if refusal := self._refusal(request):
            return refusal
        data = self.files.get(request.match_info["path"])
        if data is None:
            return web.json_response({}, status=404, headers={"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": self.commit, "Accept-Ranges": "bytes"}
        if not request.match_info["path"].endswith(self.lfs):
            return web.Response(body=data, headers={**headers, "ETag": f'"{git_blob(data)}"'})
        sha256 = hashlib.sha256(data).hexdigest()
        headers |= {
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(data)),
            "Location": f"http://localhost:{request.url.port}/cdn/{sha256}?signature=secret",
        }
        return web.Response(status=302, headers=headers)

    async def _cdn(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path))
        if credential := request.headers.get("Authorization"):
            self.leaked.append(credential)
        by_hash = {hashlib.sha256(data).hexdigest(): data for data in self.files.values()}
        data = by_hash[request.match_info["sha256"]]
        span = request.http_range
        start, stop = span.start or 0, span.stop if span.stop is not None else len(data)
        headers = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if "Range" not in request.headers:
            return web.Response(body=data, headers=headers)
        headers["Content-Range"] = f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}"
        return web.Response(status=206, body=data[start:stop], headers=headers)
