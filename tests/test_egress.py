from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from mooring.config import Settings, SourceSettings
from mooring.egress import Backoff, Egress, explain, is_loopback, is_public, retry_after
from mooring.errors import InvalidParameter, OfflineError, PermissionDenied, SourceError
from servers.web import serving


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with Egress(Settings()) as egress:
        yield egress


class Echo:
    """Answers with what it was sent; ``/to/{n}`` redirects to the n-th of ``targets``."""

    def __init__(self, *targets: str) -> None:
        self.targets = list(targets)
        self.headers: list[dict[str, str]] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/to/{n}", self._redirect)
        app.router.add_route("*", "/{path:.*}", self._echo)
        return app

    async def _redirect(self, request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": self.targets[int(request.match_info["n"])]})

    async def _echo(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        return web.Response(text=request.path)


def resolving(monkeypatch: pytest.MonkeyPatch, **hosts: str) -> None:
    """Make host names resolve to the given addresses, and no other name at all."""

    async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        if host not in hosts:
            raise socket.gaierror("unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (hosts[host], port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_offline_no_packet_leaves_the_host() -> None:
    echo = Echo("https://example.com/model")
    async with serving(echo.app()) as url, Egress(Settings(offline=True)) as egress:
        async with egress.request("GET", url / "here") as response:
            assert await response.text() == "/here"
        for outside in ("https://example.com", "http://10.0.0.1", "http://127.0.0.1.example.com"):
            with pytest.raises(OfflineError, match="--offline"):
                async with egress.request("GET", outside):
                    pass
        with pytest.raises(OfflineError):
            async with egress.request("GET", url / "to/0"):
                pass


async def test_a_proxy_does_not_see_what_stays_on_this_host(
    egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with serving(Echo().app()) as url, egress.request("GET", url / "here") as response:
        assert response.status == 200


async def test_a_proxy_is_used_and_named_when_it_fails(
    egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = Echo()
    async with serving(echo.app()) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:hush@{proxy.host}:{proxy.port}")
        async with egress.request("GET", "http://models.example/weights") as response:
            assert await response.text() == "/weights"
    assert echo.headers[0]["Host"] == "models.example"
    with pytest.raises(aiohttp.ClientError) as caught:
        async with egress.request("GET", "http://models.example/weights"):
            pass
    words = explain("http://models.example/weights?token=hush", caught.value)
    assert words.startswith("models.example: ")
    assert f"http_proxy=http://{proxy.host}:{proxy.port}" in words
    assert "hush" not in words


async def test_a_proxy_that_refuses_is_named_at_once(egress: Egress, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        with pytest.raises(aiohttp.ClientError) as caught:
            async with egress.request("GET", "https://models.example/weights"):
                pass
    assert not await Backoff().wait(caught.value)
    words = explain("https://models.example/weights", caught.value)
    assert words.startswith(
        "models.example: the proxy answered with status 407. A proxy is set (https_proxy="
    )


async def test_credentials_do_not_follow_a_redirect_to_another_host(egress: Egress) -> None:
    echo = Echo()
    async with serving(echo.app()) as url:
        echo.targets = [str(url / "same"), f"http://localhost:{url.port}/other"]
        sent = {"Authorization": "Bearer hush", "Cookie": "m_session_id=hush", "Range": "bytes=0-0"}
        for target in ("to/0", "to/1"):
            async with egress.request("GET", url / target, headers=sent) as response:
                assert response.status == 200
    same, other = echo.headers
    assert same["Authorization"] == "Bearer hush"
    assert "Authorization" not in other
    assert "Cookie" not in other
    assert other["Range"] == "bytes=0-0"


async def test_redirects_in_circles_end(egress: Egress) -> None:
    async with serving(Echo("/to/0").app()) as url:
        with pytest.raises(SourceError, match="circles"):
            async with egress.request("GET", url / "to/0"):
                pass


async def test_a_step_down_to_plain_http_is_refused(egress: Egress) -> None:
    with pytest.raises(SourceError, match="unencrypted"):
        egress._next_hop(URL("https://models.example/x"), "http://models.example/x", {})


@pytest.mark.parametrize(
    "url", ["ftp://example.com/x", "example.com", "http://", "file:///etc/passwd", "http://[x"]
)
async def test_what_is_no_web_address_is_refused(egress: Egress, url: str) -> None:
    with pytest.raises(InvalidParameter):
        egress.check(url)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.1.2.3", "192.168.0.1", "169.254.169.254", "[::1]", "[fd00::1]", "0.0.0.0",
     "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "100.64.0.1", "224.0.0.1"],
)  # fmt: skip
async def test_requests_cannot_make_the_server_visit_private_addresses(egress: Egress, host: str) -> None:
    with pytest.raises(PermissionDenied, match="public"):
        await egress.guard_public(f"http://{host}/latest/meta-data")


async def test_a_name_that_resolves_to_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(sources=SourceSettings(hf_endpoint="http://mirror.internal:8080"))
    async with Egress(settings, public_only=True) as egress:
        resolving(monkeypatch, **{"evil.example": "10.0.0.1", "good.example": "93.184.216.34"})
        await egress.guard_public("https://good.example/x.png")
        with pytest.raises(PermissionDenied):
            await egress.guard_public("https://evil.example/x.png")
        with pytest.raises(SourceError, match="resolved"):
            await egress.guard_public("https://unknown.example/x.png")
        await egress.guard_public("http://mirror.internal:8080/api/models/x")
        with pytest.raises(SourceError):
            await egress.guard_public("http://mirror.internal:9090/admin")


async def test_a_name_cannot_change_its_address_between_check_and_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Egress(Settings(), public_only=True) as egress:
        resolving(monkeypatch, **{"rebind.example": "127.0.0.1"})

        async def looked_fine(_: object) -> None:
            return None

        monkeypatch.setattr(egress, "guard_public", looked_fine)
        with pytest.raises(aiohttp.ClientConnectorError, match="private addresses only"):
            async with egress.request("GET", "http://rebind.example/"):
                pass


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("fe80::1%eth0", False),
        ("2002:0a00:0001::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("x.localhost", True),
     ("localhost.example", False), ("0.0.0.0", False), ("", False)],
)  # fmt: skip
def test_loopback_is_told_by_name_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


async def test_back_off_grows_ends_and_starts_afresh_after_success(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    backoff = Backoff(attempts=4)
    assert [await backoff.wait() for _ in range(4)] == [True, True, True, False]
    assert slept[0] < slept[2] <= 1.0
    backoff.succeeded()
    assert await backoff.wait(retry_after=7.0)
    assert slept[-1] == 7.0
    assert not await Backoff().wait(retry_after=3600.0)


async def test_an_unreachable_host_is_given_up_sooner() -> None:
    key: Any = None
    error = aiohttp.ClientConnectorError.__new__(aiohttp.ClientConnectorError, key, OSError())
    backoff = Backoff()
    assert [await backoff.wait(error) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("12", 12.0), ("", None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0)],
)
async def test_retry_after_is_read_in_both_forms(header: str, seconds: float | None) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(headers={"Retry-After": header})

    app = web.Application()
    app.router.add_get("/", answer)
    async with serving(app) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        assert retry_after(response) == seconds


@pytest.mark.parametrize(
    ("problem", "words"),
    [(TimeoutError(), "no answer in time"), ("HTTP 500", "HTTP 500"), (ValueError(), "ValueError")],
)
def test_faults_are_told_in_words_without_secrets(problem: Any, words: str) -> None:
    told = explain("https://user:hush@models.example/x?token=hush", problem)
    assert told.startswith("models.example: ")
    assert words in told
    assert "hush" not in told
