"""Who is calling: keys looked up by hash, cached, and never refused because the database is away."""

from __future__ import annotations

import contextlib
import hmac
import time
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from mooring.errors import PermissionDenied, Unauthorized, Unavailable
from mooring.ids import now_ms
from mooring.storage.keys import Key, KeyTable, Role, hash_secret
from mooring.telemetry.logging import get_logger

_FRESH_SECONDS = 5.0
_STALE_SECONDS = 3600.0
_CACHE_SIZE = 10_000
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """``tenant`` is whose turn it is in the queues: the key, or everyone together in open mode."""

    tenant: str
    role: Role


class Authenticator:
    """``local_token`` is for the CLI on this host (``server.json``); it acts as an admin.

    ``open_mode``: no key is needed. That is so without authentication (``required`` False), or on loopback
    as long as no key was ever made; a revoked or expired key does not open the server again. Once there is
    a key, an admin needs one in any case.
    """

    def __init__(self, keys: KeyTable, *, local_token: str, required: bool, loopback: bool) -> None:
        self._keys = keys
        self._local_token = local_token
        self._required = required
        self._loopback = loopback
        self._cache: dict[str, tuple[float, Key | None]] = {}
        self._checked_at = -_FRESH_SECONDS
        self._keyed = True  # until the database says otherwise
        self.open_mode = not required

    async def caller(self, secret: str | None) -> Caller:
        """Raises Unauthorized for a missing or wrong key, Unavailable when that cannot be known."""
        if secret is not None and hmac.compare_digest(secret.encode(), self._local_token.encode()):
            return Caller("local", Role.ADMIN)
        if await self._is_open():
            return await self._guest(secret)
        if secret is None:
            raise Unauthorized(
                "This server needs an API key: send it as 'Authorization: Bearer sk-mrg-…'. "
                "`mooring key create` makes one."
            )
        key = await self._find(secret)
        if key is None or not key.is_valid(now_ms()):
            known = "has expired" if key is not None and key.revoked_at is None else "is not known here"
            known = "was revoked" if key is not None and key.revoked_at is not None else known
            raise Unauthorized(f"This API key {known}. `mooring key create` makes a new one.")
        return Caller(key.id, key.role)

    async def _guest(self, secret: str | None) -> Caller:
        """Who calls in open mode; clients send any secret there, so a wrong one is as good as none."""
        if not self._keyed:
            return Caller("local", Role.ADMIN)
        with contextlib.suppress(Unavailable):
            key = await self._find(secret) if secret is not None else None
            if key is not None and key.is_valid(now_ms()):
                return Caller(key.id, key.role)
        return Caller("local", Role.MEMBER)

    async def _is_open(self) -> bool:
        """Keys can be made while the server runs (``mooring key create``), so look again now and then."""
        open_to_all = self.open_mode and not self._keyed
        if open_to_all and time.monotonic() - self._checked_at >= _FRESH_SECONDS:
            await self._look_for_keys()
        return self.open_mode

    async def refresh(self) -> None:
        """Keys have changed: forget what is cached, and see whether there are any (the first ends open mode)."""
        self._cache.clear()
        await self._look_for_keys()

    async def _look_for_keys(self) -> None:
        """When the database does not answer, what was last known holds."""
        self._checked_at = time.monotonic()
        try:
            self._keyed = await self._keys.exist()
        except (SQLAlchemyError, OSError) as error:
            log.warning("the database does not say whether there are keys", error=str(error))
            return
        self.open_mode = not self._required or (self._loopback and not self._keyed)

    async def _find(self, secret: str) -> Key | None:
        digest, now = hash_secret(secret), time.monotonic()
        known = self._cache.get(digest)
        if known is not None and now - known[0] < _FRESH_SECONDS:
            return known[1]
        try:
            key = await self._keys.find(secret)
        except (SQLAlchemyError, OSError) as error:
            if known is not None and now - known[0] < _STALE_SECONDS:
                return known[1]
            raise Unavailable(
                "The key cannot be checked, because the database does not answer. Try again.",
                code="database_unavailable",
                retry_after=2,
            ) from error
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (now, key)
        return key


def require_admin(caller: Caller) -> None:
    """Raises PermissionDenied for a key that may only use the inference API."""
    if caller.role is not Role.ADMIN:
        raise PermissionDenied(
            "This needs a key of role 'admin'; `mooring key create --role admin` makes one."
        )
