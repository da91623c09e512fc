"""Operations that report while they run, and clients that leave in the middle."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mooring.api.jobs import load_lines
from support.server import fake_deployment, fake_server


async def test_a_client_that_leaves_as_its_load_succeeds_holds_no_slot(tmp_path: Path) -> None:
    slow = {"tiny": fake_deployment(options={"load_time": 0.2})}
    async with fake_server(tmp_path, slow) as (services, _):
        lines = load_lines(services, "tiny", None, 0)
        assert b"loading" in await anext(lines)
        deployment, _ = services.controller.resolve("tiny")
        async with asyncio.timeout(10):
            while not deployment.ready or services.dispatcher.queued(deployment):
                await asyncio.sleep(0.01)
        await lines.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while deployment.active:
                await asyncio.sleep(0.01)
