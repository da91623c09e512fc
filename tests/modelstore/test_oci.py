from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from mooring.config import Settings, SourceSettings
from mooring.egress import Egress
from mooring.errors import ModelNotFound, SourceError
from mooring.modelstore.manifest import SYSTEM_TYPE, Manifest
from mooring.modelstore.pull import pull
from mooring.modelstore.push import push
from mooring.modelstore.references import add_reference
from mooring.modelstore.store import ModelStore
from mooring.types import Progress
from servers.registry import PASSWORD, USER, BearerGate, docker_registry, registry_binary
from servers.web import serving
from support.tiny_models import LlamaShape, write_llama

pytestmark = [
    pytest.mark.registry,
    pytest.mark.skipif(
        registry_binary() is None, reason="docker-registry is not installed (apt install docker-registry)"
    ),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with Egress(Settings()) as egress:
        yield egress


@pytest.fixture
def there(tmp_path: Path) -> ModelStore:
    """Another machine's store."""
    return ModelStore(tmp_path / "there")


def signed_in(host: str) -> Settings:
    return Settings(sources=SourceSettings(registry_tokens={host: SecretStr(f"{USER}:{PASSWORD}")}))


async def test_a_pushed_model_is_pulled_elsewhere_as_it_was(
    store: ModelStore, there: ModelStore, egress: Egress, registry: str, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "big.gguf", LlamaShape(embedding=256, feed_forward=1024, layers=3), seed=1)
    name = f"{registry}/crew/tiny:1"
    referred = await asyncio.to_thread(add_reference, store, "tiny", path)
    weights = Manifest.from_bytes(store.manifest("tiny")).layers
    system = store.blobs.add_bytes(b"You are the mate.", SYSTEM_TYPE)
    store.publish(name, [*weights, system], source=referred.source, info=referred.info)

    steps: list[Progress] = []
    digest = await push(store, egress, Settings(), name, progress=steps.append)
    model = await pull(there, egress, Settings(), f"ollama:{name}")

    assert model.name.short == name
    assert model.weights.digest == referred.weights.digest
    assert model.weights.path.read_bytes() == path.read_bytes()
    assert (model.weights.reference, model.system) == (None, "You are the mate.")
    assert model.info == referred.info
    assert digest.startswith("sha256:")
    assert any(step.completed == path.stat().st_size for step in steps)
    published = b"".join(file.read_bytes() for file in there.root.rglob("*") if file.is_file())
    assert str(path.parent).encode() not in published, "a path of the pushing machine left it"


async def test_a_second_push_sends_no_blob_again_and_a_new_tag_mounts(
    store: ModelStore, there: ModelStore, egress: Egress, registry: str, tiny_llama: Path
) -> None:
    name = f"{registry}/crew/mounted:1"
    await asyncio.to_thread(add_reference, store, name, tiny_llama)
    await push(store, egress, Settings(), name)
    gate = BearerGate(registry)
    async with serving(gate.app()) as url:
        host = f"{url.host}:{url.port}"
        settings = signed_in(host)
        await pull(there, egress, settings, f"ollama:{host}/crew/mounted:1")
        other = f"{host}/crew/elsewhere:2"
        there.copy(f"{host}/crew/mounted:1", other)
        steps: list[Progress] = []
        await push(there, egress, settings, other, progress=steps.append)
    weights = store.get(name).weights
    part_way = [s for s in steps if s.digest == weights.digest and 0 < s.completed < weights.size]
    assert part_way == [], "the registry had the blob, but it was uploaded"


async def test_a_registry_with_passwords_takes_the_configured_one(
    store: ModelStore, there: ModelStore, egress: Egress, tiny_llama: Path, tmp_path: Path
) -> None:
    with docker_registry(tmp_path / "registry", password=True) as host:
        name = f"{host}/crew/tiny:1"
        await asyncio.to_thread(add_reference, store, name, tiny_llama)
        with pytest.raises(SourceError, match="registry_tokens"):
            await push(store, egress, Settings(), name)
        wrong = Settings(sources=SourceSettings(registry_tokens={host: SecretStr("skipper:wrong")}))
        with pytest.raises(SourceError, match="401"):
            await push(store, egress, wrong, name)
        await push(store, egress, signed_in(host), name)
        model = await pull(there, egress, signed_in(host), name)
    assert model.weights.digest == store.get(name).weights.digest


async def test_bearer_tokens_are_fetched_and_renewed_when_they_expire(
    store: ModelStore, there: ModelStore, egress: Egress, registry: str, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "big.gguf", LlamaShape(embedding=512, feed_forward=1024, layers=2), seed=2)
    gate = BearerGate(registry, uses=2)
    async with serving(gate.app()) as url:
        host = f"{url.host}:{url.port}"
        name = f"{host}/crew/guarded:1"
        await asyncio.to_thread(add_reference, store, name, path)
        await push(store, egress, signed_in(host), name)
        model = await pull(there, egress, signed_in(host), f"ollama:{name}")
    assert model.weights.path.read_bytes() == path.read_bytes()
    assert len(gate.scopes) > 2
    assert set(gate.passwords) == {f"{USER}:{PASSWORD}"}
    assert any(scope.startswith("repository:crew/guarded") for scope in gate.scopes)


async def test_a_model_that_a_registry_lacks_is_not_found(
    store: ModelStore, egress: Egress, registry: str
) -> None:
    with pytest.raises(ModelNotFound, match="no such model"):
        await pull(store, egress, Settings(), f"ollama:{registry}/crew/nobody:1")
    assert store.list() == []


async def test_ollama_names_come_from_the_configured_mirror(
    store: ModelStore, there: ModelStore, egress: Egress, registry: str, tiny_llama: Path
) -> None:
    name = f"{registry}/library/tinyboat:1b"
    await asyncio.to_thread(add_reference, store, name, tiny_llama)
    await push(store, egress, Settings(), name)
    mirrored = Settings(sources=SourceSettings(ollama_registry=f"http://{registry}"))
    model = await pull(there, egress, mirrored, "tinyboat:1b")
    assert (model.name.short, model.source) == ("tinyboat:1b", "ollama:tinyboat:1b")
