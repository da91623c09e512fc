"""The only way out: every connection to the outside goes through an ``Egress``.

It keeps ``--offline`` true (loopback only, no proxy in between), guards addresses that a client chose,
follows redirects itself so that each hop is checked, and says what a proxy may have to do with a fault.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mooring import __version__
from mooring.config import Settings, proxy_variables
from mooring.errors import InvalidParameter, OfflineError, PermissionDenied, SourceError

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
NETWORK_ERRORS = (aiohttp.ClientError, TimeoutError, ConnectionError)
"""What a request may raise; ``Backoff`` knows which of them may pass."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# A certificate that does not verify, an answer that is not HTTP or a proxy that says no, a senseless address.
_HOPELESS = (aiohttp.ClientConnectorCertificateError, aiohttp.ClientResponseError, aiohttp.InvalidURL)
_CONNECT_SECONDS = 20.0
_SILENCE_SECONDS = 60.0
_READ_BUFFER = 1 << 20


class Egress:
    """An async context that owns the HTTP sessions. One per server or command.

    ``public_only`` is for URLs that came with a client's request: private, link-local and loopback addresses
    are refused, except the origins that the operator configured as sources.
    """

    def __init__(self, settings: Settings, *, public_only: bool = False) -> None:
        self.offline = settings.offline
        self.public_only = public_only
        sources = settings.sources
        self._configured = {
            URL(url).origin()
            for url in (
                sources.pypi_index,
                sources.hf_endpoint,
                sources.modelscope_endpoint,
                sources.ollama_registry,
            )
        }
        self._direct: aiohttp.ClientSession | None = None
        self._outer: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._direct = _new_session(trust_env=False, resolver=None)
        resolver = _PublicResolver(self._resolvable_hosts()) if self.public_only else None
        self._outer = _new_session(trust_env=True, resolver=resolver)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._direct, self._outer):
            if session is not None:
                await session.close()

    def check(self, url: str | URL) -> URL:
        """The parsed URL. Raises OfflineError when offline, unless it is loopback; InvalidParameter otherwise."""
        parsed = _parse(url)
        if self.offline and not is_loopback(parsed.host or ""):
            raise OfflineError(
                f"Offline mode: refusing to reach {parsed.host}. Start without --offline (MOORING_OFFLINE), "
                f"or bring the model in with `mooring import BUNDLE`."
            )
        return parsed

    async def guard_public(self, url: str | URL) -> None:
        """Raises PermissionDenied when ``url``'s host is, or resolves to, an address that is not public.

        The origins of the configured sources pass: the operator chose them.
        """
        parsed = self.check(url)
        if parsed.origin() in self._configured:
            return
        host = parsed.host or ""
        for address in await _addresses(host, parsed.port or 443):
            if not is_public(address):
                raise PermissionDenied(
                    f"{host} is a private address ({address}); URLs in requests may reach public hosts only. "
                    f"Use the command line on the server for local sources."
                )

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str | URL,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        data: Any = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request; the response is closed at the end of the block. No retries, no status checks.

        Redirects of GET and HEAD are followed: credentials are dropped when the origin changes, and a step
        from https down to http is refused. Raises aiohttp's errors as they are (see ``explain``).
        """
        target, sent = self.check(url), dict(headers or {})
        if params:
            target = target.update_query(params)
        for _ in range(_MAX_REDIRECTS):
            if self.public_only:
                await self.guard_public(target)
            response = await self._session(target).request(
                method, target, headers=sent, data=data, allow_redirects=False
            )
            try:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or location is None or method not in ("GET", "HEAD"):
                    yield response
                    return
                if (response.content_length or _READ_BUFFER) < _READ_BUFFER:
                    await response.read()  # so that the connection can be used again
            finally:
                response.close()
            target, sent = self._next_hop(target, location, sent)
        raise SourceError(f"{target.host} redirects in circles. Try another source.")

    def _next_hop(self, here: URL, location: str, headers: dict[str, str]) -> tuple[URL, dict[str, str]]:
        try:
            there = self.check(here.join(URL(location, encoded=True)))
        except ValueError as error:
            raise SourceError(
                f"{here.host} redirects to an address that is none. Try another source."
            ) from error
        if here.scheme == "https" and there.scheme == "http" and not is_loopback(there.host or ""):
            raise SourceError(f"{here.host} redirects to an unencrypted address ({there.host}); refused.")
        if here.origin() != there.origin():
            headers = {name: value for name, value in headers.items() if name.lower() not in _PRIVATE_HEADERS}
        return there, headers

    def _session(self, url: URL) -> aiohttp.ClientSession:
        session = self._direct if is_loopback(url.host or "") else self._outer
        assert session is not None, "use `async with Egress(settings)`"
        return session

    def _resolvable_hosts(self) -> frozenset[str]:
        """Names whose private addresses are fine: configured sources and the proxies."""
        proxies = (URL(value).host for name, value in proxy_variables().items() if name != "no_proxy")
        return frozenset(host for host in (*(o.host for o in self._configured), *proxies) if host)


class _PublicResolver(AbstractResolver):
    """Keeps a name from resolving to another address after ``guard_public`` looked (DNS rebinding)."""

    def __init__(self, trusted: frozenset[str]) -> None:
        self._trusted = trusted
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if host in self._trusted:
            return found
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise OSError(None, f"{host} resolves to private addresses only")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class Backoff:
    """When to try again after a passing fault: 0.25 s doubling to 30 s, with jitter.

    ``succeeded`` starts the count afresh, so that a long download survives any number of separate faults.
    """

    def __init__(self, attempts: int = 7) -> None:
        self.attempts = attempts
        self._failures = 0
        self._reached = False

    def succeeded(self) -> None:
        self._failures, self._reached = 0, True

    async def wait(self, error: BaseException | None = None, retry_after: float | None = None) -> bool:
        """Sleeps until the next try; False at once when there should be none.

        A host that never answered is given up sooner, an error that another try will not mend at once; and a
        server that asks for more than two minutes is not waited for.
        """
        self._failures += 1
        unreachable = isinstance(error, aiohttp.ClientConnectorError) and not self._reached
        limit = min(self.attempts, 3) if unreachable else self.attempts
        if isinstance(error, _HOPELESS) or self._failures >= limit or (retry_after or 0.0) > 120.0:
            return False
        pause = min(30.0, 0.25 * 2 ** (self._failures - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        await asyncio.sleep(max(pause, retry_after or 0.0))
        return True


def retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds from the Retry-After header (RFC 9110 §10.2.3: a number or a date)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def explain(url: str | URL, problem: str | BaseException) -> str:
    """What went wrong with ``url``, without its path and query (they may hold secrets), and what to try."""
    host = URL(url).host or str(url)
    if isinstance(problem, aiohttp.ClientConnectorCertificateError):
        problem = "its TLS certificate does not verify. Set SSL_CERT_FILE if your network re-signs TLS"
    elif isinstance(problem, aiohttp.ClientHttpProxyError):
        problem = f"the proxy answered with status {problem.status}"
    elif isinstance(problem, aiohttp.ClientConnectorDNSError):
        problem = "the name cannot be resolved. Check the network connection"
    elif isinstance(problem, TimeoutError):
        problem = "no answer in time. Check the network connection"
    elif isinstance(problem, BaseException):
        problem = str(problem) or type(problem).__name__
    proxies = {name: value for name, value in proxy_variables().items() if name != "no_proxy"}
    if not proxies or is_loopback(host):
        return f"{host}: {problem}."
    shown = ", ".join(f"{name}={URL(value).with_user(None)}" for name, value in proxies.items())
    return f"{host}: {problem}. A proxy is set ({shown}): check that it allows this host, or set no_proxy."


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by its name alone (no look-up)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_public(address: str) -> bool:
    """Whether an IP address is one that anybody on the internet would mean by it."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or _nat64(ip) or ip
    return ip.is_global and not ip.is_multicast


def _nat64(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address behind a translator's (RFC 6052 §2.1)."""
    return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None


def _parse(url: str | URL) -> URL:
    try:
        parsed = URL(url)
    except ValueError as error:
        raise InvalidParameter("url", f"{url!r} is not a URL ({error})") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidParameter("url", f"{url!r} is not an http(s) URL with a host")
    return parsed


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceError(f"{host}: the name cannot be resolved ({error}). Check the URL.") from error
    return [str(entry[4][0]) for entry in found]


def _new_session(*, trust_env: bool, resolver: AbstractResolver | None) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(resolver=resolver, limit_per_host=64, happy_eyeballs_delay=0.25)
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=trust_env,
        read_bufsize=_READ_BUFFER,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS),
        headers={
            "User-Agent": f"mooring/{__version__} (python {sys.version_info.major}.{sys.version_info.minor})"
        },
    )


__all__ = [
    "NETWORK_ERRORS",
    "TRANSIENT_STATUS",
    "Backoff",
    "Egress",
    "explain",
    "is_loopback",
    "is_public",
    "retry_after",
]
