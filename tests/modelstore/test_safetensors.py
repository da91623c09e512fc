from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.errors import InvalidModelFile
from mooring.modelstore.formats import folder_files, inspect, is_model_file, read_safetensors, role_of
from mooring.types import Capability, FileRole, ModelFormat
from support.tiny_models import CHAT_TEMPLATE, write_bert_folder

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def _folder(
    folder: Path, config: dict[str, Any], tensors: dict[str, Any] | None = None, **files: Any
) -> Path:
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(exist_ok=True)
    save_file(tensors or {"w": np.zeros((4, 8), np.float16)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def _raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_llama_folder_is_described_exactly(tmp_path: Path) -> None:
    info = inspect(_folder(tmp_path, LLAMA, tokenizer_config={"chat_template": CHAT_TEMPLATE}))
    assert (info.format, info.architecture, info.parameters) == (ModelFormat.SAFETENSORS, "llama", 32)
    assert (info.quantization, info.weights_bytes, info.vocab_size) == ("F16", 64, 100)
    assert (info.context_length, info.embedding_length, info.feed_forward_length) == (2048, 64, 128)
    assert (info.block_count, info.kv_layers, info.head_count, info.head_count_kv) == (3, 3, 4, 2)
    assert (info.key_length, info.value_length, info.sliding_window) == (16, 16, 0)
    assert info.capabilities == {Capability.CHAT, Capability.COMPLETION}
    assert info.chat_template == CHAT_TEMPLATE


def test_qwens_window_counts_only_where_it_is_used(tmp_path: Path) -> None:
    config = {**LLAMA, "model_type": "qwen2", "head_dim": 128, "sliding_window": 512}
    assert inspect(_folder(tmp_path, {**config, "use_sliding_window": False})).sliding_window == 0
    info = inspect(_folder(tmp_path, {**config, "use_sliding_window": True}))
    assert (info.sliding_window, info.key_length) == (512, 128)


def test_a_model_that_sees_is_described_by_its_language_model(tmp_path: Path) -> None:
    config = {
        "model_type": "gemma3",
        "vision_config": {},
        "text_config": {**LLAMA, "model_type": "gemma3_text"},
    }
    info = inspect(_folder(tmp_path, config, chat_template={"chat_template": "{{ tools }}"}))
    assert (info.architecture, info.block_count) == ("gemma3", 3)
    assert info.capabilities == {Capability.CHAT, Capability.COMPLETION, Capability.TOOLS, Capability.VISION}


def test_a_sentence_encoder_embeds_by_its_own_pooling(tmp_path: Path) -> None:
    info = inspect(write_bert_folder(tmp_path, pooling="cls"))
    assert (info.architecture, info.pooling, info.causal, info.kv_layers) == ("bert", "cls", False, 0)
    assert info.capabilities == {Capability.EMBEDDING}


def test_a_cross_encoder_ranks_and_another_classifier_is_refused(tmp_path: Path) -> None:
    assert inspect(write_bert_folder(tmp_path / "one", ranks=True)).capabilities == {Capability.RERANK}
    config = {**LLAMA, "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    with pytest.raises(InvalidModelFile, match="2 labels"):
        inspect(_folder(tmp_path / "two", config))


def test_packed_weights_are_counted_as_the_weights_they_hold(tmp_path: Path) -> None:
    import numpy as np

    tensors = {
        "a.qweight": np.zeros((8, 16), np.int32),
        "a.scales": np.zeros((2, 16), np.float16),
        "position_ids": np.zeros((1, 512), np.int64),
    }
    config = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    info = inspect(_folder(tmp_path, config, tensors))
    assert (info.parameters, info.quantization) == (8 * 16 * 8 + 32, "GPTQ")


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, LLAMA)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidModelFile, match=r"model-00001-of-00002\.safetensors is missing"):
        inspect(folder)


def test_pickled_weights_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidModelFile, match=r"pytorch_model\.bin.*can run code"):
        inspect(tmp_path)
    with pytest.raises(InvalidModelFile, match="neither GGUF nor safetensors"):
        inspect(tmp_path / "pytorch_model.bin")


def test_a_folder_without_a_model_or_its_config_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match="no safetensors"):
        inspect(tmp_path)
    _folder(tmp_path, LLAMA)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InvalidModelFile, match=r"no config\.json"):
        inspect(tmp_path)


def test_only_the_files_of_the_model_are_taken(tmp_path: Path) -> None:
    folder = write_bert_folder(tmp_path)
    for name in ("README.md", "evil.py", "pytorch_model.bin", ".gitattributes", "consolidated.safetensors"):
        (folder / name).write_bytes(b"x")
    assert set(folder_files(folder)) == {
        "config.json", "model.safetensors", "modules.json", "tokenizer_config.json", "vocab.txt",
        "1_Pooling/config.json",
    }  # fmt: skip
    assert not is_model_file("onnx/model.onnx")
    assert not is_model_file("original/consolidated.safetensors")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model-00001-of-00002.safetensors", FileRole.WEIGHTS),
        ("adapter_model.safetensors", FileRole.ADAPTER),
        ("config.json", FileRole.CONFIG),
        ("1_Pooling/config.json", FileRole.CONFIG),
        ("tokenizer.json", FileRole.TOKENIZER),
        ("vocab.txt", FileRole.TOKENIZER),
        ("chat_template.jinja", FileRole.TOKENIZER),
        ("notes.txt", FileRole.OTHER),
    ],
)
def test_a_file_is_known_for_what_it_is(name: str, role: FileRole) -> None:
    assert role_of(name) is role


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"", b""),
        (b"{", bytes(8)),
        (b"[]", bytes(8)),
        (b"{" * 50_000, b""),
        ({"a": 1}, b""),
        ({"a": _entry()}, bytes(7)),
        ({"a": _entry()}, bytes(9)),
        ({"a": _entry("Q9")}, bytes(8)),
        ({"a": _entry(shape=[3])}, bytes(8)),
        ({"a": _entry(shape=[-2])}, bytes(8)),
        ({"a": _entry(shape=[1 << 80])}, bytes(8)),
        ({"a": _entry(offsets=[8, 0])}, bytes(8)),
        ({"a": _entry(offsets=[8, 16])}, bytes(16)),
        ({"a": _entry(), "b": _entry()}, bytes(8)),
        ({"__metadata__": {"a": 1}, "b": _entry()}, bytes(8)),
        ({"__metadata__": []}, b""),
    ],
)
def test_a_damaged_or_hostile_header_is_a_clear_error(tmp_path: Path, header: Any, data: bytes) -> None:
    with pytest.raises(InvalidModelFile, match="not a usable safetensors file"):
        read_safetensors(_raw(tmp_path / "x.safetensors", header, data))


def test_a_header_longer_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(InvalidModelFile, match="length"):
        read_safetensors(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_altered_the_outcome_is_a_table_or_a_clear_error(tmp_path: Path, data: Any) -> None:
    path = _raw(tmp_path / "x.safetensors", {"__metadata__": {"a": "b"}, "a": _entry()}, bytes(8))
    altered = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(altered) - 1))
    altered[at : at + 2] = data.draw(st.binary(max_size=6))
    del altered[data.draw(st.integers(0, len(altered))) :]
    path.write_bytes(altered)
    with contextlib.suppress(InvalidModelFile):
        read_safetensors(path)
