"""State survives restarts, and the schema is what the migrations build."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from mooring.config import ConfigError, DeploymentSettings, Settings
from mooring.errors import InvalidParameter, NotFound
from mooring.ids import now_ms
from mooring.storage import database, open_storage
from mooring.storage.keys import Role
from mooring.storage.schema import metadata


async def test_migrations_build_exactly_the_schema(tmp_path: Path) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with open_storage(Settings(home=tmp_path)) as storage, storage.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_new_database_ends_at_the_newest_version(tmp_path: Path) -> None:
    folder = Path(database.__file__).parent / "migrations"
    assert ScriptDirectory(str(folder)).get_current_head() == database.SCHEMA_VERSION
    async with open_storage(Settings(home=tmp_path)) as storage, storage.engine.connect() as connection:
        query = sa.text("SELECT version_num FROM alembic_version")
        assert await connection.scalar(query) == database.SCHEMA_VERSION


async def test_deployments_and_keys_survive_a_restart(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    async with open_storage(settings) as storage:
        await storage.deployments.put("smollm2:135m", DeploymentSettings(replicas_min=2, replicas_max=2))
        key, secret = await storage.keys.create("laptop", Role.ADMIN)
    async with open_storage(settings) as storage:
        assert (await storage.deployments.list())["smollm2:135m"].replicas_min == 2
        found = await storage.keys.find(secret)
        assert found == key
        assert await storage.keys.find(secret + "x") is None


async def test_the_secret_itself_is_not_in_the_database_file(tmp_path: Path) -> None:
    async with open_storage(Settings(home=tmp_path)) as storage:
        _, secret = await storage.keys.create("laptop", Role.MEMBER)
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())


async def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    async def one() -> None:
        async with open_storage(Settings(home=tmp_path)) as storage:
            await storage.deployments.put("m:latest", DeploymentSettings())

    await asyncio.gather(*(one() for _ in range(4)))
    async with open_storage(Settings(home=tmp_path)) as storage:
        assert list(await storage.deployments.list()) == ["m:latest"]


async def test_a_revoked_or_expired_key_is_not_valid(tmp_path: Path) -> None:
    async with open_storage(Settings(home=tmp_path)) as storage:
        key, _ = await storage.keys.create("short", Role.MEMBER, now_ms() + 60_000)
        assert key.is_valid(now_ms())
        assert not key.is_valid(now_ms() + 61_000)
        assert not (await storage.keys.revoke(key.id)).is_valid(now_ms())
        assert not await storage.keys.any_valid()
        with pytest.raises(NotFound, match="mooring key list"):
            await storage.keys.revoke("key_nothing")
        with pytest.raises(InvalidParameter, match="past"):
            await storage.keys.create("late", Role.MEMBER, 1)


async def test_deleting_says_whether_there_was_one(tmp_path: Path) -> None:
    async with open_storage(Settings(home=tmp_path)) as storage:
        await storage.deployments.put("m:latest", DeploymentSettings(context=512))
        await storage.deployments.put("m:latest", DeploymentSettings(context=1024))
        assert (await storage.deployments.list())["m:latest"].context == 1024
        assert await storage.deployments.delete("m:latest")
        assert not await storage.deployments.delete("m:latest")


async def test_a_database_url_without_a_driver_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="postgres"):
        async with open_storage(Settings(home=tmp_path, database_url="nonsense://x")):
            pass


async def test_keys_can_be_revoked_while_others_write(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    async with open_storage(settings) as storage:
        await storage.deployments.put("m:latest", DeploymentSettings())
        key, _ = await storage.keys.create("one", Role.MEMBER)

        def write_first(_: sa.Connection, __: object, statement: str, *___: object) -> None:
            """Another process writes between revoke's reading and its writing."""
            if statement.startswith("UPDATE keys"):
                connection = sqlite3.connect(tmp_path / "state.db", timeout=0, isolation_level=None)
                with contextlib.closing(connection), contextlib.suppress(sqlite3.OperationalError):
                    connection.execute("DELETE FROM deployments")  # locked, as it is to be

        sa.event.listen(storage.engine.sync_engine, "before_cursor_execute", write_first)
        assert (await storage.keys.revoke(key.id)).revoked_at is not None


async def test_a_database_of_a_newer_version_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    async with open_storage(settings) as storage, storage.engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer Mooring"):
        async with open_storage(settings):
            pass
