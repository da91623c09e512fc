"""What was asked to be deployed; restored after a restart."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from mooring.config import DeploymentSettings
from mooring.ids import now_ms
from mooring.storage.schema import deployments


class DeploymentTable:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def list(self) -> dict[str, DeploymentSettings]:
        """Model name → wish, in the order in which they were first asked for."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(sa.select(deployments).order_by(deployments.c.created_at))
            return {row.model: DeploymentSettings.model_validate(row.spec) for row in rows}

    async def put(self, model: str, wish: DeploymentSettings) -> None:
        spec = wish.model_dump(exclude_unset=True)
        async with self._engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
            changed = await connection.execute(
                deployments.update()
                .where(deployments.c.model == model)
                .values(spec=spec, updated_at=now_ms())
            )
            if changed.rowcount == 0:
                await connection.execute(
                    deployments.insert().values(
                        model=model, spec=spec, created_at=now_ms(), updated_at=now_ms()
                    )
                )

    async def delete(self, model: str) -> bool:
        """Whether there was one."""
        async with self._engine.begin() as connection:
            result = await connection.execute(deployments.delete().where(deployments.c.model == model))
            return result.rowcount > 0
