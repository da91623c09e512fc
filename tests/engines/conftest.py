"""Workers that live as long as the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring.modelstore.store import ModelStore
from mooring.types import Capability
from support.worker import Worker, make_spec, start_worker


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("fake")
    with start_worker(make_spec("fake", folder), folder / "log", architecture="fake") as worker:
        yield worker


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    spec = make_spec("llamacpp", smollm2_gguf)
    with start_worker(spec, tmp_path_factory.mktemp("smollm2") / "log") as worker:
        yield worker


@pytest.fixture(scope="session")
def minilm_gguf(weights_store: ModelStore) -> Path:
    return weights_store.get("all-minilm").weights.path


@pytest.fixture(scope="session")
def minilm(minilm_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    spec = make_spec("llamacpp", minilm_gguf, capabilities=frozenset({Capability.EMBEDDING}), pooling="mean")
    log = tmp_path_factory.mktemp("minilm") / "log"
    with start_worker(spec, log, architecture="bert", embedding_length=384) as worker:
        yield worker
