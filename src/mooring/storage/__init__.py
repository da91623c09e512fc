"""Durable state: SQLAlchemy Core tables, Alembic migrations, SQLite (WAL) or PostgreSQL."""

from mooring.storage.database import Storage, open_storage

__all__ = ["Storage", "open_storage"]
