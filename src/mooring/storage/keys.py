"""API keys. The secret is shown once; only its SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from mooring.errors import InvalidParameter, NotFound
from mooring.ids import new_id, now_ms
from mooring.storage.schema import keys

PREFIX = "sk-mrg-"


class Role(StrEnum):
    """What a key may do: ``member`` the inference API, ``admin`` the admin API too."""

    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class Key:
    """Times are epoch milliseconds."""

    id: str
    name: str
    role: Role
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None

    def is_valid(self, at_ms: int) -> bool:
        return self.revoked_at is None and (self.expires_at is None or at_ms < self.expires_at)


def hash_secret(secret: str) -> str:
    """A key has 256 random bits, so a plain SHA-256 cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyTable:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def create(self, name: str, role: Role, expires_at: int | None = None) -> tuple[Key, str]:
        """A new key and its secret (``sk-mrg-…``), which is stored nowhere."""
        if not 1 <= len(name) <= 128:
            raise InvalidParameter("name", "give 1 to 128 characters")
        if expires_at is not None and expires_at <= now_ms():
            raise InvalidParameter("expires", "lies in the past")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(new_id("key"), name, role, f"{secret[:11]}…{secret[-4:]}", now_ms(), expires_at, None)
        async with self._engine.begin() as connection:
            await connection.execute(
                keys.insert().values(
                    id=key.id,
                    name=key.name,
                    role=key.role.value,
                    secret_sha256=hash_secret(secret),
                    hint=key.hint,
                    created_at=key.created_at,
                    expires_at=key.expires_at,
                )
            )
        return key, secret

    async def find(self, secret: str) -> Key | None:
        """The key of this secret, revoked or expired ones included."""
        async with self._engine.connect() as connection:
            row = (
                await connection.execute(sa.select(keys).where(keys.c.secret_sha256 == hash_secret(secret)))
            ).first()
        return _key(row) if row is not None else None

    async def list(self) -> list[Key]:
        async with self._engine.connect() as connection:
            rows = await connection.execute(sa.select(keys).order_by(keys.c.created_at))
            return [_key(row) for row in rows]

    async def exist(self) -> bool:
        """Whether any key was ever made; revoked and expired ones count."""
        async with self._engine.connect() as connection:
            return (await connection.execute(sa.select(keys.c.id).limit(1))).first() is not None

    async def any_valid(self) -> bool:
        """Whether any key opens this server now."""
        at = now_ms()
        return any(key.is_valid(at) for key in await self.list())

    async def revoke(self, key_id: str) -> Key:
        async with self._engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
            row = (await connection.execute(sa.select(keys).where(keys.c.id == key_id))).first()
            if row is None:
                raise NotFound(f"No key '{key_id}'; `mooring key list` shows them.")
            if row.revoked_at is None:
                at = now_ms()
                await connection.execute(keys.update().where(keys.c.id == key_id).values(revoked_at=at))
                return _key(row, revoked_at=at)
        return _key(row)


def _key(row: sa.Row[tuple[object, ...]], revoked_at: int | None = None) -> Key:
    fields = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for the row as a mapping
    return Key(
        id=fields["id"],
        name=fields["name"],
        role=Role(fields["role"]),
        hint=fields["hint"],
        created_at=fields["created_at"],
        expires_at=fields["expires_at"],
        revoked_at=fields["revoked_at"] or revoked_at,
    )
