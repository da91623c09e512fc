"""Servers for tests: one in this process on the fake engine, one as users start it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from mooring.api.app import create_app
from mooring.api.services import Services, open_services
from mooring.config import DeploymentSettings, Settings
from mooring.engines.http import loopback_listener
from mooring.modelstore.references import add_reference
from mooring.modelstore.store import ModelStore
from support.tiny_models import LlamaShape, write_llama


def fake_home(home: Path, *names: str) -> ModelStore:
    """A store whose models are one tiny real file under several names."""
    home.mkdir(parents=True, exist_ok=True)
    store = ModelStore(home / "store")
    weights = write_llama(home / "tiny.gguf", LlamaShape(context=1024))
    for name in names:
        add_reference(store, name, weights)
    return store


def fake_deployment(**wish: object) -> DeploymentSettings:
    return DeploymentSettings.model_validate({"engine": "fake", "context": 256, "slots": 2, **wish})


class Client:
    """A client of one server; an answer is read whole before it is returned."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def request(self, method: str, path: str, **options: Any) -> aiohttp.ClientResponse:
        response = await self.session.request(method, path, **options)
        await response.read()
        return response

    async def get(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.request("PUT", path, **options)

    async def delete(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        return await self.request("DELETE", path, **options)


@asynccontextmanager
async def listening(services: Services) -> AsyncIterator[Client]:
    """Serve the app on a loopback port of its own; yields a client whose base URL it is."""
    listener = loopback_listener()
    config = uvicorn.Config(
        create_app(services), log_config=None, lifespan="off", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    services.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with aiohttp.ClientSession(services.url) as session:
            yield Client(session)
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def fake_server(
    home: Path,
    deployments: Mapping[str, DeploymentSettings] | None = None,
    **settings: object,
) -> AsyncIterator[tuple[Services, Client]]:
    """A whole server over the fake engine; without ``deployments`` one model, ``tiny``."""
    deployments = deployments if deployments is not None else {"tiny": fake_deployment()}
    fake_home(home, *deployments)
    chosen = Settings.model_validate({"home": home, "deployments": deployments, **settings})
    async with open_services(chosen) as services, listening(services) as client:
        yield services, client


@dataclass
class RunningServer:
    """``mooring serve`` in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    home: Path


@contextmanager
def mooring_serve(home: Path, *arguments: str) -> Iterator[RunningServer]:
    """Start it as a user does, wait for its line, stop it with SIGTERM."""
    with (home / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mooring", "--home", str(home), "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "ready: " not in line:
            process.wait(10)
            raise AssertionError(f"no server: {line}\n{(home / 'serve.log').read_text()}")
        yield RunningServer(line.split("ready: ")[1].split()[0], process, home)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
