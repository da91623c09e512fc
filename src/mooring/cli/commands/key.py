"""``mooring key``: works on the database of the home folder, with or without a running server."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mooring.cli.invocation import Invocation, JsonOption, invocation_of
from mooring.cli.output import error_line, print_json, print_line, print_table
from mooring.errors import InvalidParameter

if TYPE_CHECKING:
    from mooring.storage.keys import Key


def register(app: typer.Typer) -> None:
    app.command("create")(create)
    app.command("list")(list_keys)
    app.command("revoke")(revoke)


def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option(help="Whose key, or what for.")],
    role: Annotated[
        Literal["member", "admin"], typer.Option(help="member: the inference API; admin: the admin API too.")
    ] = "member",
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, as 30d or 12h. [default: for ever]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key and show its secret, once.

    From the first key on, the server answers nobody without one.
    """
    from mooring.storage import open_storage
    from mooring.storage.keys import Role

    settings, expires_at = invocation_of(ctx).settings(), _expiry(expires)

    async def work() -> tuple[Key, str]:
        async with open_storage(settings) as storage:
            return await storage.keys.create(name, Role(role), expires_at)

    key, secret = asyncio.run(work())
    if as_json:
        print_json({**_as_json(key), "secret": secret})
        return
    print_line(secret)
    error_line(f"Key {key.id} for {key.name} ({key.role}). The secret is not kept: write it down now.")
    error_line("Clients send it as their API key; the command line reads it from MOORING_API_KEY.")


def list_keys(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the API keys."""
    keys = asyncio.run(_list(invocation_of(ctx)))
    if as_json:
        print_json([_as_json(key) for key in keys])
    elif not keys:
        print_line("No keys: on loopback the server is open. `mooring key create --name NAME` makes one.")
    else:
        rows = [(key.id, key.name, key.role, key.hint, _date(key.created_at), _state(key)) for key in keys]
        print_table(("ID", "NAME", "ROLE", "SECRET", "CREATED", "STATE"), rows)


def revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id; see `mooring key list`.")],
    as_json: JsonOption = False,
) -> None:
    """Revoke an API key. Requests with it are refused from now on."""
    from mooring.storage import open_storage

    settings = invocation_of(ctx).settings()

    async def work() -> Key:
        async with open_storage(settings) as storage:
            return await storage.keys.revoke(key_id)

    key = asyncio.run(work())
    if as_json:
        print_json(_as_json(key))
    else:
        print_line(f"Key {key.id} for {key.name} is revoked.")


async def _list(invocation: Invocation) -> list[Key]:
    from mooring.storage import open_storage

    async with open_storage(invocation.settings()) as storage:
        return await storage.keys.list()


def _expiry(text: str | None) -> int | None:
    """Epoch milliseconds. Raises InvalidParameter."""
    from mooring.config import parse_duration

    if text is None:
        return None
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise InvalidParameter("--expires", str(error)) from error
    if seconds <= 0:
        raise InvalidParameter("--expires", "give a time in the future such as 30d, or leave it out")
    return int((time.time() + seconds) * 1000)


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is None:
        return "valid"
    return "expired" if key.expires_at <= time.time() * 1000 else f"until {_date(key.expires_at)}"


def _date(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _as_json(key: Key) -> dict[str, Any]:
    """Times are epoch milliseconds."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "hint": key.hint,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }
