"""What protects an open server on loopback from the pages in its user's browser (DNS rebinding, CSRF)."""

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
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_host(headers: Mapping[str, str], allowed: Collection[str]) -> None:
    """Raises PermissionDenied when ``Host`` is not this machine: a rebound name would be."""
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    if not is_loopback(host) and host not in allowed:
        raise PermissionDenied(
            f"This server is open on loopback only and does not answer for host '{host}'. Add it to "
            f"allowed_hosts, or make a key with `mooring key create`.",
            code="host_not_allowed",
        )


def check_origin(headers: Mapping[str, str], allowed: Collection[str]) -> None:
    """Raises PermissionDenied when a page of another site makes the request."""
    origin = headers.get("origin")
    if origin is None or origin in allowed or urlsplit(origin).netloc == headers.get("host"):
        return
    raise PermissionDenied(
        f"Requests from the web page at {origin} are not allowed. Add it to allowed_origins if you trust it.",
        code="origin_not_allowed",
    )


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The key in any client's manner: ``Authorization: Bearer`` or ``x-api-key``."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key")
