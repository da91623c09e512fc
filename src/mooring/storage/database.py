"""Opening the database: engine, pragmas, migrations."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mooring.config import ConfigError, Settings
from mooring.errors import Unavailable
from mooring.storage.deployments import DeploymentTable
from mooring.storage.keys import KeyTable

SCHEMA_VERSION = "0001"
"""The newest migration; a database that has it needs no Alembic, which takes a while to import."""

_MIGRATION_LOCK = 0x6D6F6F72  # "moor"; PostgreSQL's advisory lock


class Storage:
    """The repositories over one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.deployments = DeploymentTable(engine)
        self.keys = KeyTable(engine)


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """Open the database of the settings, migrated to this version.

    Raises ConfigError for a URL that no driver takes and for a database of a newer version, Unavailable when
    it cannot be reached.
    """
    url = settings.effective_database_url
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        engine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    except (SQLAlchemyError, ImportError) as error:
        raise ConfigError(
            f"'database_url': {error}. Use sqlite+aiosqlite:///FILE, or postgresql+asyncpg://USER@HOST/DB "
            f"with `pip install 'mooring[postgres]'`."
        ) from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    try:
        try:
            await migrate(engine)
        except (DBAPIError, OSError) as error:
            raise Unavailable(f"The database {engine.url!r} cannot be opened: {error}") from error
        yield Storage(engine)
    finally:
        await engine.dispose()


def _prepare_sqlite(engine: AsyncEngine) -> None:
    """WAL, a patient lock, and explicit transactions (the driver's own would not cover DDL)."""

    @sa.event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")


async def migrate(engine: AsyncEngine) -> None:
    """Bring the schema to this version; of several processes one migrates and the others wait."""
    async with engine.connect() as connection:
        if await connection.run_sync(_version) == SCHEMA_VERSION:
            return
    exclusive = engine.execution_options(sqlite_begin="IMMEDIATE")
    async with exclusive.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        await connection.run_sync(_upgrade)


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return version


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:  # it has a revision that these migrations do not
        raise ConfigError(
            f"The database {connection.engine.url!r} was made by a newer Mooring ({error}). Upgrade this one, or "
            f"use another MOORING_HOME."
        ) from error
