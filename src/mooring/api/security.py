"""What protects a server that needs no key from the pages in its users' browsers (DNS rebinding, CSRF)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from mooring.errors import PermissionDenied

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})


def is_loopback(host: str) -> bool:
    """Whether a host name or address (no port) means this machine only."""
    if host.lower().rstrip(".") in _LOOPBACK_NAMES:
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def check_host(headers: Mapping[str, str], allowed: Collection[str], *, addresses: bool) -> None:
    """Raises PermissionDenied when ``Host`` is not this machine: a rebound name would be.

    ``addresses``: any IP address is this machine; nobody can rebind one.
    """
    try:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        host = ""
    named = host in {name.lower() for name in allowed}
    if is_loopback(host) or named or (addresses and _address(host) is not None):
        return
    raise PermissionDenied(
        f"This server needs no key, and so does not answer for host '{host}', which a web page could have made "
        f"up. Add it to allowed_hosts if it is yours, or have the server ask for a key (`mooring key create`, no "
        f"--no-auth).",
        code="host_not_allowed",
    )


def check_origin(headers: Mapping[str, str], allowed: Collection[str]) -> None:
    """Raises PermissionDenied when a page of another site makes the request."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or "*" in allowed or _site(origin) == headers.get("host", ""):
        return
    raise PermissionDenied(
        f"Requests from the web page at {origin} are not allowed. Add it to allowed_origins if you trust it.",
        code="origin_not_allowed",
    )


def _site(origin: str) -> str | None:
    """Its host and port; None for what is no URL."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The key in any client's manner: ``Authorization: Bearer`` or ``x-api-key``."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key")
