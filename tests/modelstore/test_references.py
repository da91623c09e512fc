from __future__ import annotations

import os
from pathlib import Path

import pytest

from mooring.errors import BrokenReference, InvalidModelFile, InvalidParameter
from mooring.modelstore import references
from mooring.modelstore.references import add_reference
from mooring.modelstore.store import ModelStore
from mooring.types import ModelFormat, Progress
from support.tiny_models import write_bert_folder

from .conftest import MakeGGUF


def test_a_file_is_used_where_it_lies_without_a_copy(store: ModelStore, tiny_llama: Path) -> None:
    seen: list[Progress] = []
    model = add_reference(store, "mine", tiny_llama, seen.append)
    assert model.weights.path == tiny_llama.resolve()
    assert model.source == f"file:{tiny_llama.resolve()}"
    assert seen[-1].completed == tiny_llama.stat().st_size
    assert sum(path.stat().st_size for path in store.blobs.folder.iterdir()) < 5000
    store.check(model)


def test_removing_a_reference_leaves_the_users_file(store: ModelStore, make_gguf: MakeGGUF) -> None:
    path = make_gguf("llama")
    add_reference(store, "mine", path)
    store.remove("mine")
    assert path.exists()


def test_a_folder_is_used_where_it_lies(store: ModelStore, tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path / "bert")
    model = add_reference(store, "bert", folder)
    assert model.info.format is ModelFormat.SAFETENSORS
    assert model.weights.path == (folder / "model.safetensors").resolve()
    assert "1_Pooling/config.json" in {file.filename for file in model.files}
    store.check(model)


def test_a_file_that_moved_is_told(store: ModelStore, make_gguf: MakeGGUF) -> None:
    path = make_gguf("llama")
    model = add_reference(store, "mine", path)
    path.rename(path.with_name("elsewhere.gguf"))
    assert [known.name.short for known in store.list()] == ["mine:latest"]
    with pytest.raises(BrokenReference, match=r"made\.gguf is gone"):
        store.check(model)


def test_a_file_altered_in_place_is_told(store: ModelStore, make_gguf: MakeGGUF) -> None:
    path = make_gguf("llama")
    model = add_reference(store, "mine", path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(BrokenReference, match="changed"):
        store.check(model)


def test_a_file_that_was_only_touched_is_hashed_once_and_then_trusted(
    store: ModelStore, make_gguf: MakeGGUF, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_gguf("llama")
    model = add_reference(store, "mine", path)
    os.utime(path, ns=(1, 1))
    store.check(model)
    monkeypatch.setattr(references, "hash_file", lambda *_: pytest.fail("hashed again"))
    store.check(store.get("mine"))


def test_a_file_still_being_written_is_not_added(
    store: ModelStore, make_gguf: MakeGGUF, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_gguf("llama")

    def grow(file: Path, _: object) -> str:
        file.write_bytes(file.read_bytes() + b"x")
        return f"sha256:{'0' * 64}"

    monkeypatch.setattr(references, "hash_file", grow)
    with pytest.raises(BrokenReference, match="while it was read"):
        add_reference(store, "mine", path)
    assert store.list() == []


def test_what_is_no_model_is_refused(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="no file or folder"):
        add_reference(store, "mine", tmp_path / "missing.gguf")
    (tmp_path / "x.gguf").write_bytes(b"hello")
    with pytest.raises(InvalidModelFile):
        add_reference(store, "mine", tmp_path / "x.gguf")
    folder = write_bert_folder(tmp_path / "bert")
    with pytest.raises(InvalidModelFile, match="folder"):
        add_reference(store, "mine", folder / "model.safetensors")
