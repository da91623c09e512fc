from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mooring.errors import (
    BrokenReference,
    DigestMismatch,
    DiskFull,
    InvalidModelFile,
    InvalidParameter,
    ModelNotFound,
    MooringError,
    StoreError,
)
from mooring.modelstore import bundle as bundle_module
from mooring.modelstore.bundle import export, import_
from mooring.modelstore.create import create
from mooring.modelstore.references import add_reference
from mooring.modelstore.store import ModelStore
from mooring.types import Progress
from support.tiny_models import write_bert_folder

from .conftest import MakeGGUF


@pytest.fixture
def source(tmp_path: Path, tiny_llama: Path) -> ModelStore:
    """A store with a copied model, the same one with a system prompt, and a folder by reference."""
    store = ModelStore(tmp_path / "source")
    create(store, "tiny:a", f"FROM {tiny_llama}", base_dir=tmp_path)
    create(store, "tiny:b", "FROM tiny:a\nSYSTEM Be kind.", base_dir=tmp_path)
    add_reference(store, "host.example:5000/team/bert", write_bert_folder(tmp_path / "bert"))
    return store


NAMES = ("tiny:a", "tiny:b", "host.example:5000/team/bert")


@pytest.fixture
def bundle(source: ModelStore, tmp_path: Path) -> Path:
    export(source, NAMES, tmp_path / "models.bundle")
    return tmp_path / "models.bundle"


def _remake(bundle: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> Path:
    """The bundle with its index and members altered, as a hostile hand would."""
    with tarfile.open(bundle) as tar:
        members = {m.name: file.read() for m in tar if (file := tar.extractfile(m))}
    index = json.loads(members["index.json"])
    change(index, members)
    members["index.json"] = json.dumps(index).encode()
    with tarfile.open(bundle, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return bundle


def _is_empty(store: ModelStore) -> bool:
    return store.list() == [] and not [path for path in store.root.rglob("*") if path.is_file()]


def test_models_arrive_on_an_air_gapped_host_as_they_left(
    source: ModelStore, bundle: Path, store: ModelStore
) -> None:
    seen: list[Progress] = []
    models = import_(store, bundle, seen.append)
    assert [model.name.short for model in models] == [
        "tiny:a",
        "tiny:b",
        "host.example:5000/team/bert:latest",
    ]
    assert store.get("tiny:b").files == tuple(
        replace(file, path=store.blobs.path(file.digest)) for file in source.get("tiny:b").files
    )
    assert (store.get("tiny:b").system, store.get("tiny:b").source) == ("Be kind.", "")
    bert = store.get("host.example:5000/team/bert")
    assert bert.weights.reference is None
    assert bert.weights.path.read_bytes() == source.get(NAMES[2]).weights.path.read_bytes()
    for model in models:
        store.check(model)
    assert seen[-1].completed == seen[-1].total
    assert [step.completed for step in seen] == sorted(step.completed for step in seen)
    assert [model.digest for model in import_(store, bundle)] == [model.digest for model in models]


def test_a_bundle_is_a_tar_file_that_is_the_same_every_time(
    source: ModelStore, bundle: Path, tmp_path: Path
) -> None:
    export(source, NAMES, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == bundle.read_bytes()
    with tarfile.open(bundle) as tar:
        names = tar.getnames()
    assert names[0] == "index.json"
    assert len(names) == len(set(names))


def test_a_bundle_tells_nothing_of_the_machine_it_comes_from(bundle: Path, tmp_path: Path) -> None:
    assert str(tmp_path.parent).encode() not in bundle.read_bytes()


def test_a_model_keeps_its_digest_on_the_way(source: ModelStore, store: ModelStore, tmp_path: Path) -> None:
    base = source.get("tiny:a")
    layers = [source.blobs.add_file(base.weights.path, "application/vnd.ollama.image.model")]
    model = source.publish("pulled", layers, source="hf:org/repo", info=base.info)
    export(source, ["pulled"], tmp_path / "b")
    assert import_(store, tmp_path / "b")[0].digest == model.digest


def test_a_bundle_repacked_by_tar_still_imports(bundle: Path, store: ModelStore) -> None:
    _remake(bundle, lambda index, members: None)
    assert len(import_(store, bundle)) == 3


def test_a_bundle_cut_anywhere_is_told_and_leaves_the_store_as_it_was(
    bundle: Path, store: ModelStore, tmp_path: Path
) -> None:
    data = bundle.read_bytes()
    cut = tmp_path / "cut"
    for end in [0, 1, 511, 512, 1000, 2000, *range(3000, len(data), len(data) // 40), len(data) - 1]:
        cut.write_bytes(data[:end])
        with pytest.raises(InvalidModelFile, match="not a usable bundle"):
            import_(store, cut)
        assert _is_empty(store)


def test_a_changed_byte_anywhere_is_found(bundle: Path, store: ModelStore, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    with tarfile.open(bundle) as tar:
        inside = [member.offset_data for member in tar if member.name != "index.json"]
    changed = tmp_path / "changed"
    for at in [3, *inside, *(start - 400 for start in inside), len(data) - 2000]:
        altered = bytearray(data)
        altered[at] ^= 0x55
        changed.write_bytes(altered)
        with pytest.raises((InvalidModelFile, DigestMismatch)):
            import_(store, changed)
        for model in store.list():  # those complete before the damage are whole
            store.check(model)
            store.remove(model.name)
        assert _is_empty(store)


def _traversal(index: dict[str, Any], members: dict[str, bytes]) -> None:
    members["../../evil"] = members.pop(list(members)[1])


def _extra(index: dict[str, Any], members: dict[str, bytes]) -> None:
    members["extra"] = b"x"


def _unlisted(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["blobs"].pop()


def _surplus(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["blobs"].append({"digest": f"sha256:{'0' * 64}", "size": 1})


def _twice(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["blobs"].append(index["blobs"][0])


def _newer(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["version"] = 2


def _foreign(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["format"] = "other"


def _bad_digest(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["blobs"][0]["digest"] = "sha256:../../etc/passwd"


def _bad_name(index: dict[str, Any], members: dict[str, bytes]) -> None:
    index["models"][0]["name"] = "../../../../etc/x"


def _reference(index: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest = json.loads(index["models"][0]["manifest"])
    manifest["layers"][0]["annotations"] = {
        "dev.mooring.reference.path": "/etc/passwd",
        "dev.mooring.reference.mtime_ns": "0",
    }
    index["models"][0]["manifest"] = json.dumps(manifest)


def _title(index: dict[str, Any], members: dict[str, bytes]) -> None:
    manifest = json.loads(index["models"][0]["manifest"])
    manifest["layers"][0]["annotations"] = {"org.opencontainers.image.title": "../../evil"}
    index["models"][0]["manifest"] = json.dumps(manifest)


@pytest.mark.parametrize(
    "change",
    [
        _traversal,
        _extra,
        _unlisted,
        _surplus,
        _twice,
        _newer,
        _foreign,
        _bad_digest,
        _bad_name,
        _reference,
        _title,
    ],
)
def test_a_hostile_bundle_is_refused_whole(
    bundle: Path, store: ModelStore, change: Callable[[dict[str, Any], dict[str, bytes]], None]
) -> None:
    with pytest.raises((InvalidModelFile, InvalidParameter)):
        import_(store, _remake(bundle, change))
    assert _is_empty(store)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(bundle: Path, store: ModelStore, kind: bytes) -> None:
    with tarfile.open(bundle) as tar:
        member = tar.getmembers()[1]
    info = tarfile.TarInfo(member.name)
    info.type, info.linkname, info.size = kind, "/etc/passwd", member.size
    data = bytearray(bundle.read_bytes())
    data[member.offset : member.offset + 512] = info.tobuf(tarfile.GNU_FORMAT)
    bundle.write_bytes(data)
    with pytest.raises(InvalidModelFile, match="not a plain file"):
        import_(store, bundle)
    assert _is_empty(store)


def test_a_model_whose_weights_are_no_model_is_not_imported(
    source: ModelStore, store: ModelStore, tmp_path: Path
) -> None:
    text = source.blobs.add_bytes(b"not weights", "application/vnd.ollama.image.model")
    source.publish("fake", [text], source="x", info=source.get("tiny:a").info)
    export(source, ["fake"], tmp_path / "fake.bundle")
    with pytest.raises(MooringError):
        import_(store, tmp_path / "fake.bundle")
    assert _is_empty(store)


def test_a_full_disk_on_import_leaves_nothing_half_done(
    bundle: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull):
            import_(store, bundle)
    assert _is_empty(store)


def test_a_failed_export_leaves_no_file_and_the_old_one_alone(
    source: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b").write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(bundle_module, "_write_blob", full)
        with pytest.raises(DiskFull):
            export(source, NAMES, out / "b")
    assert [(path.name, path.read_bytes()) for path in out.iterdir()] == [("b", b"old")]
    with pytest.raises(StoreError, match="no folder"):
        export(source, NAMES, out / "missing" / "b")


def test_export_tells_of_models_that_are_missing_damaged_or_changed(
    source: ModelStore, tmp_path: Path, make_gguf: MakeGGUF
) -> None:
    out = tmp_path / "b"
    with pytest.raises(ModelNotFound):
        export(source, ["tiny:c"], out)
    path = make_gguf("llama")
    add_reference(source, "ref", path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenReference):
        export(source, ["ref"], out)
    weights = source.get("tiny:a").weights.path
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DigestMismatch, match="damaged"):
        export(source, ["tiny:a"], out)
    assert not out.exists()


def test_a_bundle_that_is_not_there_is_named(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="missing"):
        import_(store, tmp_path / "missing")
