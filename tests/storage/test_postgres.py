"""The same state on PostgreSQL: a real server, started here on loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mooring.config import DeploymentSettings, Settings
from mooring.errors import Unavailable
from mooring.storage import open_storage
from mooring.storage.keys import Role
from mooring.storage.schema import metadata

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(not _BINARIES, reason="PostgreSQL is not installed (apt install postgresql)"),
]


def _as_owner(*command: str | Path) -> list[str]:
    """PostgreSQL refuses to run as root, so there it runs as its own user."""
    words = [str(word) for word in command]
    return ["runuser", "-u", "postgres", "--", *words] if os.geteuid() == 0 else words


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="mooring-"))  # its user may not enter pytest's folders
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        data, binaries = folder / "data", _BINARIES[-1]
        make = _as_owner(binaries / "initdb", "-D", data, "-A", "trust", "-U", "mooring", "--no-sync")
        subprocess.run(make, check=True, capture_output=True, cwd="/")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        control: list[str | Path] = [binaries / "pg_ctl", "-D", data, "-w"]
        start = _as_owner(*control, "-l", folder / "log", "-o", options, "start")
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
        try:
            yield f"postgresql+asyncpg://mooring@127.0.0.1:{port}/postgres"
        finally:
            stop = _as_owner(*control, "-m", "immediate", "stop")
            subprocess.run(stop, check=True, stdout=subprocess.DEVNULL, cwd="/")
    finally:
        shutil.rmtree(folder)


async def test_processes_that_start_together_migrate_once_and_share_state(
    server: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, database_url=server)

    async def one(number: int) -> None:
        async with open_storage(settings) as storage:
            await storage.deployments.put(f"m{number}:latest", DeploymentSettings(context=512))

    await asyncio.gather(*(one(number) for number in range(4)))
    async with open_storage(settings) as storage:
        assert len(await storage.deployments.list()) == 4
        key, secret = await storage.keys.create("laptop", Role.ADMIN)
        assert await storage.keys.find(secret) == key
        assert (await storage.keys.revoke(key.id)).revoked_at
        assert await storage.keys.exist()
        assert not await storage.keys.any_valid()
        async with storage.engine.connect() as connection:
            found = await connection.run_sync(
                lambda c: compare_metadata(MigrationContext.configure(c), metadata)
            )
            assert found == []
            assert await connection.scalar(sa.text("SELECT count(*) FROM alembic_version")) == 1


async def test_a_database_that_is_away_is_said_so(server: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = server.rsplit(":", 1)[0] + f":{port}/postgres"
    with pytest.raises(Unavailable, match="cannot be opened"):
        async with open_storage(Settings(home=tmp_path, database_url=away)):
            pass
