from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mooring.errors import (
    BrokenReference,
    Conflict,
    DiskFull,
    InvalidModelFile,
    InvalidParameter,
    ModelNotFound,
    MooringError,
    StoreError,
)
from mooring.modelstore import store as store_module
from mooring.modelstore.manifest import (
    ADAPTER_TYPE,
    FILE_TYPE,
    LICENSE_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    PROJECTOR_TYPE,
    SYSTEM_TYPE,
    Layer,
    Manifest,
)
from mooring.modelstore.names import ModelName
from mooring.modelstore.references import add_reference
from mooring.modelstore.store import Model, ModelStore
from mooring.types import Capability, FileRole
from support.tiny_models import write_bert_folder

from .conftest import MakeGGUF


def _add(store: ModelStore, name: str, weights: Path, *more: Layer) -> Model:
    layers = [store.blobs.add_file(weights, MODEL_TYPE), *more]
    return store.publish(name, layers, source="test", info=store.describe(layers))


def _tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_published_model_is_read_back_whole(store: ModelStore, tiny_llama: Path) -> None:
    add = store.blobs.add_bytes
    more = [
        add(b'{"stop":["x"],"num_ctx":64}', PARAMS_TYPE),
        add(b"Be kind.", SYSTEM_TYPE),
        add(b"MIT", LICENSE_TYPE),
        add(b"Terms", LICENSE_TYPE),
    ]
    model = _add(store, "tiny:a", tiny_llama, *more)
    assert model == store.get("tiny:a") == ModelStore(store.root).get(ModelName.parse("TINY:A"))
    assert model.weights.path.read_bytes() == tiny_llama.read_bytes()
    assert (model.system, model.license, model.source) == ("Be kind.", "MIT\n\nTerms", "test")
    assert model.parameters == {"stop": ["x"], "num_ctx": 64}
    assert model.capabilities == {Capability.CHAT, Capability.COMPLETION}
    assert model.size > tiny_llama.stat().st_size
    assert [known.name.short for known in store.list()] == ["tiny:a"]


def test_a_model_pulled_by_ollama_itself_is_usable(store: ModelStore, tiny_llama: Path) -> None:
    weights = store.blobs.add_file(tiny_llama, MODEL_TYPE)
    config = store.blobs.add_bytes(b'{"model_format":"gguf","model_family":"llama"}', "x")
    path = store.root / "manifests/registry.ollama.ai/library/theirs/latest"
    path.parent.mkdir(parents=True)
    path.write_bytes(Manifest(config=config, layers=[weights]).to_bytes())
    assert store.get("theirs").info.architecture == "llama"


def test_a_short_name_finds_latest_then_the_only_tag(store: ModelStore, tiny_llama: Path) -> None:
    _add(store, "tiny:135m", tiny_llama)
    assert store.get("tiny").name.short == "tiny:135m"
    with pytest.raises(ModelNotFound):
        store.get("tiny:latest")
    store.copy("tiny:135m", "tiny:360m")
    with pytest.raises(ModelNotFound, match="tiny:135m, tiny:360m"):
        store.get("tiny")
    store.copy("tiny:135m", "tiny")
    assert store.get("tiny").name.short == "tiny:latest"


def test_an_unknown_name_is_answered_with_the_nearest(store: ModelStore, tiny_llama: Path) -> None:
    _add(store, "smollm2:135m", tiny_llama)
    with pytest.raises(ModelNotFound, match=r"Did you mean smollm2:135m\?"):
        store.get("smolm2:135m")
    with pytest.raises(ModelNotFound, match="mooring pull"):
        store.remove("zzz")
    with pytest.raises(InvalidParameter):
        store.get("../../etc")


def test_an_empty_store_is_no_error(store: ModelStore) -> None:
    assert store.list() == []
    assert store.prune() == 0
    with pytest.raises(ModelNotFound):
        store.get("x")


def test_the_case_first_given_stays_on_disk(store: ModelStore, tiny_llama: Path) -> None:
    _add(store, "Tiny:A", tiny_llama)
    _add(store, "tiny:a", tiny_llama)
    assert [model.name.short for model in store.list()] == ["Tiny:A"]


def test_one_damaged_model_does_not_hide_the_others(store: ModelStore, tiny_llama: Path) -> None:
    _add(store, "good", tiny_llama)
    _add(store, "lost", tiny_llama, store.blobs.add_bytes(b"text", SYSTEM_TYPE))
    folder = store.root / "manifests/registry.ollama.ai/library"
    (folder / "bad").mkdir()
    (folder / "bad" / "latest").write_text("{")
    (folder / "bad" / ".strange").write_text("{")
    store.blobs.path(store.blobs.add_bytes(b"text", SYSTEM_TYPE).digest).unlink()
    assert [model.name.short for model in store.list()] == ["good:latest"]
    assert len(store.problems) == 3
    with pytest.raises(InvalidModelFile, match="damaged"):
        store.get("bad")


def test_removing_frees_only_what_no_other_model_needs(store: ModelStore, tiny_llama: Path) -> None:
    first = _add(store, "one", tiny_llama)
    store.copy("one", "two")
    assert store.remove("one") == 0
    assert store.get("two").weights.path.exists()
    assert store.remove("two") == first.size
    assert _tree(store.root) == set()


def test_replacing_a_model_frees_the_old_ones_blobs(
    store: ModelStore, tiny_llama: Path, make_gguf: MakeGGUF
) -> None:
    old = _add(store, "m", tiny_llama)
    new = _add(store, "m", make_gguf("llama"))
    assert not old.weights.path.exists()
    assert new.weights.path.exists()


def test_removing_a_model_in_use_keeps_its_files_until_the_worker_ends(
    store: ModelStore, tiny_llama: Path
) -> None:
    model = _add(store, "m", tiny_llama)
    folder = store.materialise(model)
    other = ModelStore(store.root)
    with store.use(model), store.use(model):
        other.remove("m")
        assert other.prune() == 0
        assert model.weights.path.read_bytes() == tiny_llama.read_bytes()
        assert (folder / "model.gguf").exists()
    assert _tree(store.root) == set()
    with pytest.raises(Conflict, match="mooring pull m:latest"), store.use(model):
        pytest.fail("a removed model cannot be used")


def test_a_damaged_manifest_keeps_its_blobs(store: ModelStore, tiny_llama: Path) -> None:
    model = _add(store, "one", tiny_llama)
    store.copy("one", "two")
    path = store.root / "manifests" / model.name.path
    path.write_bytes(path.read_bytes()[:-2])
    store.remove("two")
    assert model.weights.path.exists()


@pytest.mark.parametrize("point", ["_write", "sync_folder", "read_model"])
def test_a_crash_while_publishing_leaves_the_old_model_or_the_new(
    store: ModelStore, tiny_llama: Path, make_gguf: MakeGGUF, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: Any) -> None:
        raise Crash

    old = _add(store, "m", tiny_llama)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, point, crash)
        with pytest.raises(Crash):
            _add(store, "m", make_gguf("llama"))
    now = store.get("m")
    assert now.weights.digest == old.weights.digest or point == "sync_folder"
    store.check(now)
    assert store.problems == []
    assert list((store.root / "tmp").iterdir()) == []


def test_a_full_disk_while_publishing_leaves_the_old_model(
    store: ModelStore, tiny_llama: Path, make_gguf: MakeGGUF, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = _add(store, "m", tiny_llama)

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module, "_write", full)
    with pytest.raises(DiskFull):
        _add(store, "m", make_gguf("llama"))
    assert store.get("m") == old
    store.check(old)


def test_a_model_that_could_not_be_read_back_is_not_published(store: ModelStore, tiny_llama: Path) -> None:
    bad = store.blobs.add_bytes(b"[1]", PARAMS_TYPE)
    with pytest.raises(InvalidModelFile, match="parameters"):
        _add(store, "m", tiny_llama, bad)
    gone = Layer(SYSTEM_TYPE, f"sha256:{'0' * 64}", 3)
    with pytest.raises(Conflict, match="try again"):
        _add(store, "m", tiny_llama, gone)
    assert store.list() == []


def test_many_threads_may_publish_and_remove_at_once(store: ModelStore, tiny_llama: Path) -> None:
    def work(number: int) -> None:
        # Another thread may remove the blob between adding and publishing: that is told, nothing is corrupted.
        with contextlib.suppress(MooringError):
            for _ in range(5):
                _add(store, f"m{number}", tiny_llama)
                store.list()
                store.remove(f"m{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    for model in store.list():
        store.check(model)


def test_an_engine_gets_a_folder_with_the_files_own_names(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_bert_folder(tmp_path / "bert")
    model = add_reference(store, "bert", source)
    folder = store.materialise(model)
    assert folder == store.materialise(model)
    assert _tree(folder) == _tree(source)
    assert (folder / "1_Pooling" / "config.json").read_bytes() == (
        source / "1_Pooling/config.json"
    ).read_bytes()
    shutil.rmtree(folder / "1_Pooling")
    assert _tree(store.materialise(model)) == _tree(source)

    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    shutil.rmtree(folder)
    monkeypatch.setattr(Path, "symlink_to", refused)
    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert _tree(store.materialise(model)) == _tree(source)


def test_every_file_has_a_name_of_its_own(store: ModelStore, tiny_llama: Path, make_gguf: MakeGGUF) -> None:
    adapters = [
        store.blobs.add_file(make_gguf("llama", {"general.type": "adapter", "x": n}), ADAPTER_TYPE)
        for n in (1, 2)
    ]
    model = _add(store, "m", tiny_llama, *adapters)
    assert [file.filename for file in model.files] == ["model.gguf", "adapter.gguf", "2-adapter.gguf"]
    assert len(list(store.materialise(model).iterdir())) == 3
    second = store.blobs.add_bytes(b"other", FILE_TYPE).with_title("Model.gguf")
    with pytest.raises(InvalidModelFile, match=r"two files 'Model\.gguf'"):
        _add(store, "m", tiny_llama, second)


def test_a_projector_makes_a_model_see(store: ModelStore, tiny_llama: Path, make_gguf: MakeGGUF) -> None:
    projector = store.blobs.add_file(make_gguf("clip"), PROJECTOR_TYPE)
    model = _add(store, "m", tiny_llama, projector)
    assert Capability.VISION in model.capabilities
    assert model.projector is not None
    assert model.projector.role is FileRole.PROJECTOR


def test_check_finds_a_blob_that_is_missing_or_cut(store: ModelStore, tiny_llama: Path) -> None:
    model = _add(store, "m", tiny_llama)
    store.check(model)
    model.weights.path.write_bytes(b"short")
    with pytest.raises(StoreError, match="pull it again"):
        store.check(model)


def test_prune_clears_what_a_crash_left(store: ModelStore, tiny_llama: Path) -> None:
    model = _add(store, "m", tiny_llama)
    orphan = store.blobs.add_bytes(b"orphan", "x")
    leftover = store.root / "tmp" / "left"
    leftover.mkdir()
    for path in (store.blobs.path(orphan.digest), leftover):
        os.utime(path, (0, 0))
    assert store.prune() == len(b"orphan")
    assert not leftover.exists()
    store.check(model)


def test_a_title_that_leads_outside_never_becomes_a_link(store: ModelStore, tiny_llama: Path) -> None:
    model = _add(store, "m", tiny_llama)
    path = store.root / "manifests" / model.name.path
    manifest = json.loads(path.read_bytes())
    manifest["layers"][0]["annotations"] = {"org.opencontainers.image.title": "../../../evil"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(InvalidModelFile, match="relative path"):
        store.get("m")


def test_a_reference_that_changed_is_told_before_an_engine_opens_it(
    store: ModelStore, make_gguf: MakeGGUF
) -> None:
    path = make_gguf("llama")
    model = add_reference(store, "m", path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(BrokenReference, match="changed"):
        store.check(model)
