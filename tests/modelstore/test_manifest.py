from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.errors import InvalidModelFile
from mooring.modelstore.manifest import (
    FILE_TYPE,
    MODEL_TYPE,
    ImageConfig,
    Layer,
    Manifest,
    Reference,
    human_count,
    is_safe_title,
    needed_blobs,
)
from mooring.types import Capability, ModelFormat, ModelInfo

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
OLLAMA = (
    '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
    '"config":{"mediaType":"application/vnd.docker.container.image.v1+json","digest":"' + A + '","size":485},'
    '"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"' + B + '","size":91739413}]}'
).encode()


def _wrong(**change: Any) -> bytes:
    return json.dumps({**json.loads(OLLAMA), **change}).encode()


def test_a_manifest_of_ollama_survives_byte_for_byte() -> None:
    assert Manifest.from_bytes(OLLAMA).to_bytes() == OLLAMA


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        _wrong(layers=[{"mediaType": MODEL_TYPE, "digest": "sha256:../../etc/passwd", "size": 1}]),
        _wrong(layers=[{"mediaType": MODEL_TYPE, "digest": A + "\n", "size": 1}]),
        _wrong(layers=[{"mediaType": MODEL_TYPE, "digest": A, "size": -1}]),
        _wrong(config={}),
    ],
)
def test_a_damaged_or_hostile_manifest_is_a_clear_error(raw: bytes) -> None:
    with pytest.raises(InvalidModelFile, match="manifest is damaged"):
        Manifest.from_bytes(raw)


def test_a_damaged_manifest_still_protects_the_blobs_it_names() -> None:
    assert needed_blobs(OLLAMA[:-3]) == {A, B}


@pytest.mark.parametrize(
    "title", ["../x", "/etc/passwd", "a/../b", "a\\b", "C:x", "a//b", "./a", "a\x00", "a\n"]
)
def test_a_file_name_cannot_lead_out_of_the_models_folder(title: str) -> None:
    assert not is_safe_title(title)
    with pytest.raises(InvalidModelFile, match="relative path"):
        _ = Layer(FILE_TYPE, A, 1).with_title(title).title


@given(st.text(max_size=60))
def test_a_safe_file_name_stays_below_its_folder(title: str) -> None:
    if is_safe_title(title) and title:
        assert Path("/model") in (Path("/model") / title).parents


def test_what_leaves_this_machine_names_no_file_of_it() -> None:
    layer = Layer(MODEL_TYPE, A, 7).with_title("m.gguf")
    marked = layer.with_reference(Reference(Path("/home/me/m.gguf"), 7, 123))
    assert marked.reference == Reference(Path("/home/me/m.gguf"), 7, 123)
    manifest = Manifest(config=Layer("c", B, 1), layers=[marked])
    assert needed_blobs(manifest.to_bytes()) == {B}
    assert manifest.plain() == Manifest(config=Layer("c", B, 1), layers=[layer])


def test_a_damaged_reference_is_a_clear_error() -> None:
    layer = Layer(
        MODEL_TYPE, A, 7, {"dev.mooring.reference.path": "/x", "dev.mooring.reference.mtime_ns": "z"}
    )
    with pytest.raises(InvalidModelFile, match="reference"):
        _ = layer.reference


def test_the_description_of_a_model_survives_its_config_and_is_the_same_every_time() -> None:
    info = ModelInfo(
        format=ModelFormat.GGUF,
        architecture="llama",
        capabilities=frozenset(Capability),
        parameters=134_515_008,
        quantization="Q4_1",
        chat_template="{{ x }}",
    )
    config = ImageConfig.describe(info, [Layer(MODEL_TYPE, A, 1)], source="pypi:x")
    again = ImageConfig.from_bytes(config.to_bytes())
    assert again.info == info
    assert (again.model_format, again.model_family, again.model_type, again.file_type) == (
        "gguf", "llama", "134.52M", "Q4_1",
    )  # fmt: skip
    assert again.rootfs.diff_ids == [A]
    assert json.loads(config.to_bytes())["mooring"]["info"]["capabilities"] == sorted(Capability)


def test_a_config_from_before_a_field_came_is_read() -> None:
    info = ModelInfo(format=ModelFormat.GGUF, architecture="bert", capabilities=frozenset(), tokenizer="bert")
    written = json.loads(ImageConfig.describe(info, [Layer(MODEL_TYPE, A, 1)], source="x").to_bytes())
    del written["mooring"]["info"]["tokenizer"]
    again = ImageConfig.from_bytes(json.dumps(written).encode()).info
    assert again is not None
    assert (again.architecture, again.tokenizer) == ("bert", "")


def test_a_config_of_ollama_has_no_description_of_ours() -> None:
    config = (
        b'{"model_format":"gguf","model_family":"llama","model_type":"8.0B","file_type":"Q4_0","rootfs":{}}'
    )
    assert ImageConfig.from_bytes(config).info is None


@pytest.mark.parametrize(
    ("count", "text"), [(8_030_261_312, "8.0B"), (22_713_216, "22.71M"), (1500, "1.50K"), (3, "3")]
)
def test_parameter_counts_are_shown_as_people_say_them(count: int, text: str) -> None:
    assert human_count(count) == text
