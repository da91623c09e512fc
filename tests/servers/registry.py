"""Debian's docker-registry on a loopback port, and a proxy before it that asks for bearer tokens."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

USER, PASSWORD = "skipper", "secret"
_BCRYPT = "$2b$05$HN54JkQFg6YpqiJqAM79bOiUCnJ5Ce5vGvSDcNfvRJBvAha8W29e."  # of PASSWORD
_CONFIG = """\
version: 0.1
log:
  level: error
storage:
  filesystem:
    rootdirectory: {root}
  delete:
    enabled: true
http:
  addr: 127.0.0.1:{port}
{auth}"""
_AUTH = """\
auth:
  htpasswd:
    realm: test
    path: {path}
"""


def registry_binary() -> str | None:
    return shutil.which("docker-registry")


@contextmanager
def docker_registry(folder: Path, *, password: bool = False) -> Iterator[str]:
    """A real registry that keeps its data in ``folder``; its ``host:port``."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    auth = ""
    if password:
        (folder / "htpasswd").write_text(f"{USER}:{_BCRYPT}\n")
        auth = _AUTH.format(path=folder / "htpasswd")
    config = folder / "config.yml"
    config.write_text(_CONFIG.format(root=folder / "data", port=port, auth=auth))
    binary = registry_binary()
    assert binary is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([binary, "serve", str(config)], stdout=log, stderr=log)
        try:
            _wait_until_up(process, port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _wait_until_up(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("docker-registry did not start")


@dataclass
class BearerGate:
    """Stands before a registry: every request needs a token, each good for ``uses`` requests."""

    upstream: str
    uses: int = 1000
    scopes: list[str] = field(default_factory=list)
    passwords: list[str] = field(default_factory=list)
    _left: dict[str, int] = field(default_factory=dict)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/token", self._token)
        app.router.add_route("*", "/v2/{path:.*}", self._forward)
        return app

    async def _token(self, request: web.Request) -> web.Response:
        self.scopes.append(request.query.get("scope", ""))
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            return web.json_response({"errors": []}, status=401)
        self.passwords.append(base64.b64decode(value).decode())
        token = f"token-{len(self.scopes)}"
        self._left[token] = self.uses
        return web.json_response({"token": token, "expires_in": 60})

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._left.get(token, 0) <= 0:
            repository = request.match_info["path"].rpartition("/blobs/")[0] or "any"
            challenge = (
                f'Bearer realm="http://{request.host}/token",service="gate",'
                f'scope="repository:{repository}:pull,push"'
            )
            return web.json_response({"errors": []}, status=401, headers={"WWW-Authenticate": challenge})
        self._left[token] -= 1
        kept = {"Accept", "Content-Type", "Range", "If-Range"}
        headers = {name: value for name, value in request.headers.items() if name in kept}
        headers["Host"] = request.host
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                f"http://{self.upstream}{request.path_qs}",
                headers=headers,
                data=io.BytesIO(body),
            ) as answer,
        ):
            passed = {n: v for n, v in answer.headers.items() if n not in ("Transfer-Encoding", "Date")}
            return web.Response(status=answer.status, headers=passed, body=await answer.read())
