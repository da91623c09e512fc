from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.errors import InvalidModelFile
from mooring.modelstore.formats import inspect, read_gguf
from mooring.modelstore.formats.ggml import FILE_TYPES, TENSOR_TYPES
from mooring.modelstore.formats.gguf import SkippedArray
from mooring.types import Capability, ModelFormat
from support.tiny_models import CHAT_TEMPLATE, LlamaShape, write_llama

from .conftest import MakeGGUF


@pytest.fixture(scope="module")
def sample(tiny_llama: Path) -> bytes:
    return tiny_llama.read_bytes()


def test_a_llama_is_described_exactly(tmp_path: Path) -> None:
    shape = LlamaShape(layers=3, heads=8, heads_kv=2, dtype="Q8_0")
    info = inspect(write_llama(tmp_path / "m.gguf", shape))
    block = 2 * 64 + 2 * 64 * 64 + 2 * 64 * 16 + 3 * 64 * 128
    assert info.format is ModelFormat.GGUF
    assert info.architecture == "llama"
    assert info.parameters == 384 * 64 + 64 + 3 * block
    assert (info.context_length, info.embedding_length, info.feed_forward_length) == (256, 64, 128)
    assert (info.block_count, info.head_count, info.head_count_kv, info.kv_layers) == (3, 8, 2, 3)
    assert (info.key_length, info.value_length, info.sliding_window) == (8, 8, 0)
    assert info.vocab_size == 384
    assert info.causal
    assert info.chat_template == CHAT_TEMPLATE
    assert info.capabilities == {Capability.CHAT, Capability.COMPLETION}


def test_sizes_of_weights_are_those_that_the_reference_reader_finds(tiny_llama: Path) -> None:
    import gguf

    ours, theirs = read_gguf(tiny_llama), gguf.GGUFReader(tiny_llama)
    assert [(t.name, t.nbytes, t.offset, t.elements) for t in ours.tensors] == [
        (t.name, t.n_bytes, t.data_offset, t.n_elements) for t in theirs.tensors
    ]
    assert inspect(tiny_llama).weights_bytes == sum(int(t.n_bytes) for t in theirs.tensors)


def test_the_tables_of_types_agree_with_the_gguf_package() -> None:
    import gguf

    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    ours = {number: tuple(kind) for number, kind in TENSOR_TYPES.items()}
    assert {number: sizes[number] for number in ours} == ours
    for number, label in FILE_TYPES.items():
        assert label in gguf.LlamaFileType(number).name


@pytest.mark.parametrize(("number", "label"), [(15, "Q4_K_M"), (3, "Q4_1"), (32, "BF16")])
def test_the_quantisation_is_named_as_people_know_it(make_gguf: MakeGGUF, number: int, label: str) -> None:
    assert inspect(make_gguf("llama", {"general.file_type": number})).quantization == label
    assert inspect(make_gguf("llama")).quantization == "F32"


def _shape(architecture: str, **more: Any) -> dict[str, Any]:
    base = {"block_count": 12, "embedding_length": 64, "attention.head_count": 8, **more}
    return {f"{architecture}.{key.replace('__', '.')}": value for key, value in base.items()}


def test_gemma_keeps_its_own_head_size_and_window(make_gguf: MakeGGUF) -> None:
    more = {"attention__key_length": 256, "attention__value_length": 128, "attention__sliding_window": 512}
    info = inspect(make_gguf("gemma3", _shape("gemma3", attention__head_count_kv=4, **more)))
    assert (info.key_length, info.value_length, info.sliding_window) == (256, 128, 512)
    assert (info.head_count_kv, info.kv_layers) == (4, 12)


def test_layers_without_a_kv_cache_are_not_counted(make_gguf: MakeGGUF) -> None:
    hybrid = inspect(make_gguf("lfm2", _shape("lfm2", attention__head_count_kv=[0, 0, 8, 0, 0, 8])))
    assert (hybrid.head_count_kv, hybrid.kv_layers) == (8, 2)
    interval = inspect(make_gguf("qwen3next", _shape("qwen3next", full_attention_interval=4)))
    assert (interval.head_count_kv, interval.kv_layers) == (8, 3)
    shared = inspect(make_gguf("gemma3n", _shape("gemma3n", attention__shared_kv_layers=5)))
    assert shared.kv_layers == 7
    assert inspect(make_gguf("mamba", _shape("mamba"))).kv_layers == 0


def test_an_encoder_embeds_and_has_no_kv_cache(make_gguf: MakeGGUF) -> None:
    info = inspect(make_gguf("bert", _shape("bert", pooling_type=1, attention__causal=False)))
    assert info.capabilities == {Capability.EMBEDDING}
    assert (info.pooling, info.causal, info.kv_layers) == ("mean", False, 0)


def test_an_embedding_model_made_of_a_chat_model_is_no_chat_model(make_gguf: MakeGGUF) -> None:
    metadata = {**_shape("qwen3", pooling_type=3), "tokenizer.chat_template": CHAT_TEMPLATE}
    info = inspect(make_gguf("qwen3", metadata))
    assert info.pooling == "last"
    assert info.capabilities == {Capability.EMBEDDING}
    assert info.kv_layers == 12


def test_a_tokenizer_is_known_with_what_it_keeps_of_case_and_accents(make_gguf: MakeGGUF) -> None:
    def tokenizer(**metadata: Any) -> str:
        keys = {f"tokenizer.ggml.{key.replace('__', '.')}": value for key, value in metadata.items()}
        return inspect(make_gguf("bert", keys)).tokenizer

    assert tokenizer() == ""
    assert tokenizer(model="t5") == "t5"
    assert tokenizer(model="bert") == "bert"
    assert tokenizer(model="bert", normalizer__lowercase=True, normalizer__strip_accents=True) == "bert"
    kept = tokenizer(model="bert", normalizer__lowercase=False, normalizer__strip_accents=False)
    assert kept == "bert+case+accents"


def test_a_reranker_is_known_by_its_pooling_or_its_head(make_gguf: MakeGGUF) -> None:
    stated = inspect(make_gguf("bert", _shape("bert", pooling_type=4)))
    headed = inspect(make_gguf("qwen3", _shape("qwen3"), tensors={"cls.output.weight": (1, 4)}))
    assert stated.pooling == headed.pooling == "rank"
    assert stated.capabilities == headed.capabilities == {Capability.RERANK}


def test_tools_are_known_by_the_template(make_gguf: MakeGGUF) -> None:
    template = "{% if tools %}{{ tools }}{% endif %}{{ messages }}"
    info = inspect(make_gguf("llama", {"tokenizer.chat_template": template}))
    assert info.capabilities == {Capability.CHAT, Capability.COMPLETION, Capability.TOOLS}


def test_projectors_and_adapters_are_not_taken_for_models(make_gguf: MakeGGUF) -> None:
    assert inspect(make_gguf("clip")).capabilities == {Capability.VISION}
    adapter = inspect(make_gguf("llama", {"general.type": "adapter"}))
    assert (adapter.format, adapter.capabilities) == (ModelFormat.ADAPTER, frozenset())


def test_one_part_of_several_is_refused_with_the_way_to_join_them(make_gguf: MakeGGUF) -> None:
    with pytest.raises(InvalidModelFile, match="llama-gguf-split --merge"):
        inspect(make_gguf("llama", {"split.count": 3}))


def test_a_large_vocabulary_is_counted_without_being_kept(make_gguf: MakeGGUF) -> None:
    tokens = [f"token{i}" * (1 + i % 3) for i in range(200_000)]
    path = make_gguf(
        "llama",
        {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.5] * 200_000, "llama.block_count": 7},
    )
    assert read_gguf(path).metadata["tokenizer.ggml.tokens"] == SkippedArray(200_000)
    info = inspect(path)
    assert (info.vocab_size, info.block_count) == (200_000, 7)


def test_a_file_cut_at_any_byte_is_an_error(sample: bytes) -> None:
    header = len(sample) - inspect_bytes(sample)
    for end in [*range(0, header, 7), header, len(sample) - 1]:
        with pytest.raises(InvalidModelFile):
            read_gguf(io.BytesIO(sample[:end]))


def inspect_bytes(data: bytes) -> int:
    return sum(tensor.nbytes for tensor in read_gguf(io.BytesIO(data)).tensors)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "cut short"),
        (b"GGML" + bytes(20), "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62) + bytes(90), "key is too long"),
        (b"GGUF" + struct.pack("<IQQQsI", 3, 0, 1, 1, b"k", 99) + bytes(90), "type 99"),
        (b"GGUF" + struct.pack("<IQQQsIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 61) + bytes(90), "texts in a list"),
        (b"GGUF" + struct.pack("<IQQQsIIQ", 3, 0, 1, 1, b"k", 9, 9, 1) + bytes(90), "elements of type 9"),
        (b"GGUF" + struct.pack("<IQQQsIQ", 3, 0, 1, 1, b"k", 8, 1 << 40) + bytes(90), "too long"),
    ],
)  # fmt: skip
def test_a_hostile_file_is_refused_with_what_is_wrong(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidModelFile, match=problem):
        read_gguf(io.BytesIO(data))


def _tensor(dims: int, shape: tuple[int, ...], kind: int, offset: int = 0) -> bytes:
    return struct.pack(f"<IQQQsI{len(shape)}QIQ", 3, 1, 0, 1, b"t", dims, *shape, kind, offset)


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (_tensor(5, (), 0), "5 dimensions"),
        (_tensor(1, (32,), 5), "type 5"),
        (_tensor(1, (33,), 2), "shape"),
        (_tensor(2, (1 << 40, 1 << 40), 0), "shape"),
        (_tensor(1, (1 << 40,), 0), "cut short"),
        (_tensor(1, (4,), 0, 1 << 63), "cut short"),
    ],
)  # fmt: skip
def test_a_tensor_that_cannot_be_is_refused(tensor: bytes, problem: str) -> None:
    with pytest.raises(InvalidModelFile, match=problem):
        read_gguf(io.BytesIO(b"GGUF" + tensor + bytes(256)))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_altered_in_a_file_the_outcome_is_a_header_or_a_clear_error(
    sample: bytes, data: Any
) -> None:
    header = len(sample) - inspect_bytes(sample)
    altered = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 1500), st.integers(0, header - 9)))
        altered[at : at + 8] = data.draw(st.one_of(st.binary(min_size=8, max_size=8), st.just(b"\xff" * 8)))
    del altered[data.draw(st.integers(0, len(altered))) :]
    _read_or_refuse(bytes(altered))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_after_a_good_beginning_never_crash_the_reader(tail: bytes) -> None:
    _read_or_refuse(b"GGUF\x03\x00\x00\x00" + tail)


def _read_or_refuse(data: bytes) -> None:
    with contextlib.suppress(InvalidModelFile):
        read_gguf(io.BytesIO(data))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(
    st.sampled_from(["general.architecture", "general.file_type", "x.block_count", "x.attention.head_count",
                     "x.attention.head_count_kv", "x.embedding_length", "x.pooling_type", "split.count"]),
    st.one_of(st.integers(-(1 << 31), (1 << 31) - 1), st.text(max_size=5), st.booleans(), st.floats(),
              st.lists(st.integers(-5, 1 << 40), max_size=4)),
))  # fmt: skip
def test_metadata_of_the_wrong_kind_never_crashes_the_description(change: dict[str, Any]) -> None:
    from mooring.modelstore.formats.gguf import GGUFHeader
    from mooring.modelstore.formats.gguf_info import gguf_info

    with contextlib.suppress(InvalidModelFile):
        gguf_info(GGUFHeader(3, {"general.architecture": "x", **change}, [], 0))
