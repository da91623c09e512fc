from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from mooring.config import Settings, SourceSettings
from mooring.egress import Egress
from mooring.errors import OfflineError, SourceError
from mooring.modelstore.pull import pull
from mooring.modelstore.sources.choice import HubFile, choose
from mooring.modelstore.store import ModelStore
from mooring.types import Capability, ModelFormat
from servers.hub import HubDouble
from servers.modelscope import ModelScopeDouble
from servers.web import serving
from support.tiny_models import write_bert_folder

REPO = "crew/Tiny-GGUF"
COMMIT = "c" * 40


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with Egress(Settings()) as egress:
        yield egress


@pytest.fixture
def gguf(tiny_llama: Path) -> bytes:
    return tiny_llama.read_bytes()


def at(url: object, tmp_path: Path, **sources: object) -> Settings:
    chosen = {"hf_endpoint": str(url), "hf_cache": tmp_path / "hf", **sources}
    return Settings(sources=SourceSettings.model_validate(chosen))


async def test_the_double_is_a_hub_to_hugging_faces_own_client(tmp_path: Path, gguf: bytes) -> None:
    from huggingface_hub import HfApi

    hub = HubDouble(REPO, {"tiny-Q8_0.gguf": gguf, "config.json": b"{}"}, token="hf_crew")

    def ask(url: str) -> tuple[list[tuple[str, int, str]], bytes, bytes]:
        api = HfApi(endpoint=url, token="hf_crew")
        info = api.model_info(REPO, files_metadata=True)
        siblings = [(s.rfilename, s.size, s.lfs.sha256 if s.lfs else "") for s in info.siblings or []]
        paths = [
            api.hf_hub_download(REPO, name, cache_dir=tmp_path) for name in ("tiny-Q8_0.gguf", "config.json")
        ]
        return siblings, Path(paths[0]).read_bytes(), Path(paths[1]).read_bytes()

    async with serving(hub.app()) as url:
        siblings, weights, config = await asyncio.to_thread(ask, str(url))
    sha256 = hashlib.sha256(gguf).hexdigest()
    assert siblings == [("tiny-Q8_0.gguf", len(gguf), sha256), ("config.json", 2, "")]
    assert (weights, config) == (gguf, b"{}")


async def test_the_best_quantisation_comes_pinned_to_its_commit(
    store: ModelStore, egress: Egress, tmp_path: Path, gguf: bytes
) -> None:
    files = {"tiny-Q8_0.gguf": b"GGUF no", "tiny-Q4_K_M.gguf": gguf, "README.md": b"#"}
    hub = HubDouble(REPO, files)
    async with serving(hub.app()) as url:
        model = await pull(store, egress, at(url, tmp_path), f"hf:{REPO}")
    assert model.name.short == "hf.co/crew/Tiny-GGUF:Q4_K_M"
    assert model.source == f"hf:{REPO}@{COMMIT}:tiny-Q4_K_M.gguf"
    assert (model.weights.filename, model.weights.path.read_bytes()) == ("tiny-Q4_K_M.gguf", gguf)


@pytest.mark.parametrize("wanted", ["q8_0", "tiny-Q8_0.gguf", "sub/tiny-Q8_0.gguf"])
async def test_a_quantisation_or_file_can_be_named(
    store: ModelStore, egress: Egress, tmp_path: Path, gguf: bytes, wanted: str
) -> None:
    hub = HubDouble(REPO, {"sub/tiny-Q8_0.gguf": gguf, "tiny-Q4_K_M.gguf": b"GGUF no"})
    async with serving(hub.app()) as url:
        model = await pull(store, egress, at(url, tmp_path), f"hf:{REPO}@main:{wanted}", name="mine")
    assert model.weights.filename == "sub/tiny-Q8_0.gguf"


async def test_a_token_opens_a_gated_repository_and_never_reaches_the_cdn(
    store: ModelStore, egress: Egress, tmp_path: Path, gguf: bytes
) -> None:
    hub = HubDouble(REPO, {"tiny-Q8_0.gguf": gguf}, token="hf_crew")
    async with serving(hub.app()) as url:
        with pytest.raises(SourceError, match=r"401.*set HF_TOKEN"):
            await pull(store, egress, at(url, tmp_path), f"hf:{REPO}")
        settings = at(url, tmp_path, hf_token=SecretStr("hf_crew"))
        await pull(store, egress, settings, f"hf:{REPO}")
    assert any(path.startswith("/cdn/") for _, path in hub.seen)
    assert hub.leaked == []


async def test_a_bert_folder_is_converted_and_its_safetensors_do_not_stay(
    store: ModelStore, egress: Egress, tmp_path: Path
) -> None:
    folder = write_bert_folder(tmp_path / "bert")
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    hub = HubDouble("crew/bert", {**files, "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx"})
    async with serving(hub.app()) as url:
        model = await pull(store, egress, at(url, tmp_path), "hf:crew/bert")
    assert (model.info.format, model.info.architecture) == (ModelFormat.GGUF, "bert")
    assert model.capabilities == {Capability.EMBEDDING}
    assert model.source == f"hf:crew/bert@{COMMIT}"
    assert len(list(store.blobs.folder.glob("sha256-*"))) == 2
    assert not any("bin" in path or "onnx" in path for _, path in hub.seen)


async def test_pickled_weights_are_refused_by_name(store: ModelStore, egress: Egress, tmp_path: Path) -> None:
    hub = HubDouble("crew/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    async with serving(hub.app()) as url:
        with pytest.raises(SourceError, match=r"pytorch_model\.bin"):
            await pull(store, egress, at(url, tmp_path), "hf:crew/old")


async def test_a_cached_file_is_used_where_it_lies_also_without_the_network(
    store: ModelStore, egress: Egress, tmp_path: Path, gguf: bytes
) -> None:
    from huggingface_hub import hf_hub_download

    hub = HubDouble(REPO, {"tiny-Q8_0.gguf": gguf})
    async with serving(hub.app()) as url:
        await asyncio.to_thread(
            hf_hub_download, REPO, "tiny-Q8_0.gguf", endpoint=str(url), cache_dir=tmp_path / "hf"
        )
        hub.seen.clear()
        model = await pull(store, egress, at(url, tmp_path), f"hf:{REPO}", name="online")
    assert not any(path.startswith("/cdn/") for _, path in hub.seen)
    assert model.weights.reference is not None
    assert model.weights.path.is_relative_to(tmp_path / "hf")
    assert not store.blobs.has(model.weights.digest)

    settings = Settings(offline=True, sources=SourceSettings(hf_cache=tmp_path / "hf"))
    async with Egress(settings) as closed:
        offline = await pull(store, closed, settings, f"hf:{REPO}", name="offline")
        assert (offline.weights.digest, offline.source) == (model.weights.digest, model.source)
        with pytest.raises(OfflineError):
            await pull(store, closed, settings, "hf:crew/absent")


async def test_modelscope_gives_models_with_its_session_token(
    store: ModelStore, egress: Egress, gguf: bytes
) -> None:
    double = ModelScopeDouble(REPO, {"tiny-q4_k_m.gguf": gguf, "sub/x.json": b"{}"}, token="ms-crew")
    async with serving(double.app()) as url:
        sources = SourceSettings(modelscope_endpoint=str(url), modelscope_token=SecretStr("ms-crew"))
        model = await pull(store, egress, Settings(sources=sources), f"modelscope:{REPO}:Q4_K_M")
        without = Settings(sources=SourceSettings(modelscope_endpoint=str(url)))
        with pytest.raises(SourceError, match="404"):
            await pull(store, egress, without, f"modelscope:{REPO}")
    assert model.name.short == "modelscope.cn/crew/Tiny-GGUF:Q4_K_M"
    assert model.source == f"modelscope:{REPO}@master:tiny-q4_k_m.gguf"
    assert model.weights.path.read_bytes() == gguf


def chosen(wanted: str, *paths: str) -> list[str]:
    files = [HubFile(path, 1, None) for path in paths]
    return [file.path for file, _ in choose(files, wanted, "crew/boat").files]


def test_a_vision_model_comes_with_its_projector() -> None:
    files = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf", "mmproj-m-f32.gguf", "m.imatrix.gguf")
    assert chosen("", *files) == ["m-Q4_K_M.gguf", "mmproj-m-f16.gguf"]


def test_split_ggufs_are_refused_by_name_and_avoided_where_they_can_be() -> None:
    split = ("m-Q4_K_M-00001-of-00002.gguf", "m-Q4_K_M-00002-of-00002.gguf")
    assert chosen("", *split, "m-Q8_0.gguf") == ["m-Q8_0.gguf"]
    with pytest.raises(SourceError, match=r"split GGUF.*Q4_K_M, Q8_0"):
        chosen("q4_k_m", *split, "m-Q8_0.gguf")


def test_what_a_repository_lacks_is_told_with_what_it_has() -> None:
    with pytest.raises(SourceError, match="There are: F16, Q8_0"):
        chosen("Q2_K", "m-fp16.gguf", "m-Q8_0.gguf")
    with pytest.raises(SourceError, match=r"several models.*a-Q8_0\.gguf, b-Q8_0\.gguf"):
        chosen("", "a-Q8_0.gguf", "b-Q8_0.gguf")


def test_safetensors_come_with_what_belongs_to_them_and_nothing_else() -> None:
    paths = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modeling.py",
        "x.bin",
        "consolidated.safetensors",
    )
    assert chosen("", *paths) == ["config.json", "model.safetensors", "tokenizer.json"]
