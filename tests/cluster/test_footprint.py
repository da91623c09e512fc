"""The predictor's terms are llama.cpp's own numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mooring.cluster.footprint import MIB, compute_bytes, estimate, kv_cache_bytes
from mooring.modelstore.formats import inspect
from mooring.types import Capability, ModelFormat, ModelInfo
from support.tiny_models import LlamaShape, write_bert_folder, write_llama
from support.worker import make_spec, start_worker

LLAMA_8B = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="llama",
    capabilities=frozenset({Capability.CHAT, Capability.COMPLETION}),
    parameters=8_030_261_248,
    quantization="Q8_0",
    weights_bytes=8_532_934_656,
    context_length=131072,
    embedding_length=4096,
    feed_forward_length=14336,
    block_count=32,
    head_count=32,
    head_count_kv=8,
    key_length=128,
    value_length=128,
    kv_layers=32,
    vocab_size=128256,
)


def test_the_kv_cache_of_llama_8b_is_what_llama_cpp_allocates() -> None:
    assert kv_cache_bytes(LLAMA_8B, 8192, 1) == 1024 * MIB
    assert kv_cache_bytes(LLAMA_8B, 8192, 4) == 4096 * MIB


def test_a_context_is_rounded_up_as_llama_cpp_rounds_it() -> None:
    assert kv_cache_bytes(LLAMA_8B, 300, 3) == kv_cache_bytes(LLAMA_8B, 512, 3)


def test_layers_with_a_sliding_window_keep_the_window_only() -> None:
    whole = replace(LLAMA_8B, kv_layers=30)
    windowed = replace(whole, architecture="gemma3", sliding_window=1024)
    assert kv_cache_bytes(windowed, 32768, 1) < kv_cache_bytes(whole, 32768, 1) / 4
    assert kv_cache_bytes(windowed, 1024, 1) == kv_cache_bytes(whole, 1024, 1)


@pytest.mark.parametrize(
    ("embedding", "feed_forward", "context", "logged"),
    [(512, 1024, 512, 11.52), (512, 2048, 512, 17.52), (512, 4096, 4096, 33.02), (576, 1536, 2048, 16.64)],
)
def test_the_compute_buffer_is_the_one_in_llama_cpps_log(
    embedding: int, feed_forward: int, context: int, logged: float
) -> None:
    info = replace(
        LLAMA_8B,
        embedding_length=embedding,
        feed_forward_length=feed_forward,
        head_count=embedding // 64,
        key_length=64,
    )
    assert compute_bytes(info, context) / MIB == pytest.approx(logged, rel=0.01)


@pytest.mark.parametrize(("context", "logged"), [(128, 1.72), (256, 3.51), (512, 7.27)])
def test_an_encoders_compute_buffer_is_the_one_in_llama_cpps_log(context: int, logged: float) -> None:
    minilm = replace(
        LLAMA_8B,
        capabilities=frozenset({Capability.EMBEDDING}),
        causal=False,
        embedding_length=384,
        feed_forward_length=1536,
        head_count=12,
        key_length=32,
    )
    assert compute_bytes(minilm, context) / MIB == pytest.approx(logged, rel=0.01)


def test_files_beside_the_model_count() -> None:
    bare = estimate(LLAMA_8B, context=512, slots=1)
    beside = estimate(LLAMA_8B, context=512, slots=1, extra_weights=600 * MIB)
    assert beside.ram_total == bare.ram_total + 600 * MIB


def test_layers_on_a_gpu_leave_the_ram() -> None:
    cpu = estimate(LLAMA_8B, context=4096, slots=2)
    half = estimate(LLAMA_8B, context=4096, slots=2, gpu_layers=16)
    whole = estimate(LLAMA_8B, context=4096, slots=2, gpu_layers=33)
    assert cpu.vram_total == 0
    assert cpu.ram_total > half.ram_total > whole.ram_total
    assert half.kv_cache == cpu.kv_cache // 2
    assert whole.kv_cache == 0
    assert whole.weights < LLAMA_8B.weights_bytes / 10, "only the token embeddings stay"
    assert whole.vram_total > LLAMA_8B.weights_bytes * 0.9 + cpu.kv_cache


def test_memory_that_a_gpu_shares_is_counted_once_and_as_ram() -> None:
    shared = estimate(LLAMA_8B, context=4096, slots=2, gpu_layers=33, unified=True)
    assert shared.vram_total == 0
    assert shared.ram_total == estimate(LLAMA_8B, context=4096, slots=2).ram_total


def test_an_embedding_models_row_of_logits_per_token_is_counted(tmp_path: Path) -> None:
    from mooring.modelstore.convert.bert import convert_bert

    convert_bert(write_bert_folder(tmp_path / "bert"), tmp_path / "bert.gguf")
    info = replace(inspect(tmp_path / "bert.gguf"), vocab_size=250_002)
    assert estimate(info, context=2048, slots=1).compute > 2048 * 250_002 * 4


def test_a_model_known_by_its_size_alone_still_has_an_estimate() -> None:
    unknown = ModelInfo(
        format=ModelFormat.GGUF, architecture="", capabilities=frozenset(), weights_bytes=5_000_000_000
    )
    assert 5_000_000_000 < estimate(unknown, context=8192, slots=4).ram_total < 5_200_000_000


def _resident(path: Path, log: Path, context: int, slots: int) -> int:
    with start_worker(make_spec("llamacpp", path, context=context, slots=slots), log) as worker:
        for seed in range(slots):
            prompt = [3 + (7 * i + 13 * seed) % 250 for i in range(min(context - 16, 520))]
            with worker.call(
                "/v1/completions", {"prompt": prompt, "max_tokens": 4, "id_slot": seed}
            ) as answer:
                answer.read()
        return int(psutil.Process(worker.process.pid).memory_info().rss)


@pytest.mark.skipif(not psutil.LINUX, reason="resident size means something else elsewhere")
def test_a_worker_takes_what_was_predicted(tmp_path: Path) -> None:
    shape = LlamaShape(embedding=256, heads=4, heads_kv=4, feed_forward=1024, layers=4, context=8192)
    path = write_llama(tmp_path / "tiny.gguf", shape)
    predicted = estimate(inspect(path), context=8192, slots=2).ram_total
    assert predicted == pytest.approx(_resident(path, tmp_path / "log", 8192, 2), rel=0.1)


@pytest.mark.weights
@pytest.mark.skipif(not psutil.LINUX, reason="resident size means something else elsewhere")
@pytest.mark.parametrize(("context", "slots"), [(512, 1), (2048, 4)])
def test_smollm2_takes_what_was_predicted(
    smollm2_gguf: Path, tmp_path: Path, context: int, slots: int
) -> None:
    predicted = estimate(inspect(smollm2_gguf), context=context, slots=slots).ram_total
    measured = _resident(smollm2_gguf, tmp_path / "log", context, slots)
    assert predicted == pytest.approx(measured, rel=0.1)
