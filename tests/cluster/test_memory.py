"""A plan fits the machine, keeps what was asked, and says why; what cannot fit is refused with numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.cluster import memory
from mooring.cluster.footprint import MIB
from mooring.cluster.hardware import GPU, Machine
from mooring.cluster.memory import LoadPlan, plan
from mooring.errors import InvalidParameter, ModelTooLarge
from mooring.types import Capability, ModelFormat, ModelInfo

GIB = 1024 * MIB
LAPTOP = Machine(cores_physical=4, ram_total=16 * GIB, ram_available=12 * GIB)
LLAMA_8B = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="llama",
    capabilities=frozenset({Capability.CHAT, Capability.COMPLETION}),
    parameters=8_030_261_248,
    quantization="Q5_0",
    weights_bytes=5_599_000_000,
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
BGE_M3 = ModelInfo(
    format=ModelFormat.GGUF,
    architecture="bert",
    capabilities=frozenset({Capability.EMBEDDING}),
    parameters=567_000_000,
    quantization="F16",
    weights_bytes=1_158_000_000,
    context_length=8192,
    embedding_length=1024,
    feed_forward_length=4096,
    block_count=24,
    head_count=16,
    head_count_kv=16,
    key_length=64,
    value_length=64,
    vocab_size=250_002,
    causal=False,
    pooling="cls",
)


def make(
    info: ModelInfo = LLAMA_8B,
    machine: Machine = LAPTOP,
    *,
    engine: str = "llamacpp",
    context: int | None = None,
    slots: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    most_gpu_layers: int | None = None,
    budget: int | None = None,
    extra_weights: int = 0,
) -> LoadPlan:
    return plan(
        info,
        machine,
        engine=engine,
        context=context,
        slots=slots,
        threads=threads,
        gpu_layers=gpu_layers,
        most_gpu_layers=most_gpu_layers,
        budget=budget,
        extra_weights=extra_weights,
    )


@pytest.fixture
def gpu_machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A GPU of 24 GiB, and an engine that can use it."""
    monkeypatch.setattr(memory, "can_offload", lambda: True)
    return replace(LAPTOP, gpus=(GPU(index=0, name="A GPU", total=24 * GIB, free=23 * GIB),))


def test_a_big_machine_gets_the_default_context_and_four_slots() -> None:
    chosen = make(machine=replace(LAPTOP, ram_available=64 * GIB))
    assert (chosen.context, chosen.slots, chosen.threads, chosen.gpu_layers) == (8192, 4, 4, 0)


def test_less_memory_means_fewer_slots_before_a_shorter_context() -> None:
    assert (make(budget=9 * GIB).context, make(budget=9 * GIB).slots) == (8192, 2)
    assert (make(budget=7 * GIB).context, make(budget=7 * GIB).slots) == (8192, 1)
    tight = make(budget=6 * GIB)
    assert tight.context < 8192
    assert tight.slots == 1
    assert any("8192 would need" in reason for reason in tight.reasons)


def test_a_model_with_a_short_context_is_not_stretched() -> None:
    assert make(replace(LLAMA_8B, context_length=2048)).context == 2048


def test_an_embedding_model_does_not_reserve_gigabytes_for_texts_nobody_sends() -> None:
    chosen = make(BGE_M3)
    assert chosen.context == 2048
    assert chosen.estimate.ram_total < 4 * GIB
    assert make(BGE_M3, machine=replace(LAPTOP, ram_available=64 * GIB), context=8192).context == 8192


def test_what_was_asked_is_kept_or_refused_never_changed() -> None:
    chosen = make(context=4096, slots=3, threads=2, gpu_layers=0)
    assert (chosen.context, chosen.slots, chosen.threads, chosen.gpu_layers) == (4096, 3, 2, 0)
    assert {"context 4096: as asked", "slots 3: as asked", "threads 2: as asked"} <= set(chosen.reasons)
    with pytest.raises(ModelTooLarge):
        make(context=4096, slots=64)


def test_files_beside_the_model_are_planned_for() -> None:
    assert make(budget=7 * GIB, extra_weights=GIB).context < make(budget=7 * GIB).context


@given(budget=st.integers(0, 40 * GIB))
def test_a_plan_always_fits_its_budget(budget: int) -> None:
    try:
        chosen = make(budget=budget)
    except ModelTooLarge:
        assert budget < 7 * GIB
    else:
        assert chosen.estimate.ram_total <= budget


def test_a_refusal_gives_both_numbers_and_a_smaller_quantisation_that_fits() -> None:
    with pytest.raises(ModelTooLarge) as refused:
        make(replace(LLAMA_8B, quantization="Q8_0", weights_bytes=8_530_000_000), budget=6 * GIB)
    assert "needs 8.22 GiB" in refused.value.message
    assert "only 5.70 GiB can be used" in refused.value.message
    assert "quantisation would fit" in refused.value.message


def test_a_refused_context_names_one_that_fits() -> None:
    with pytest.raises(ModelTooLarge, match=r"It would fit with context 8192 and 2 slots \(.* GiB\)"):
        make(context=131072)


def test_where_nothing_fits_the_way_out_is_named() -> None:
    with pytest.raises(ModelTooLarge, match="mooring ps"):
        make(budget=200 * MIB)


def test_a_context_beyond_the_models_is_refused_by_name() -> None:
    with pytest.raises(InvalidParameter, match="131072"):
        make(context=200_000)


def test_gpu_layers_without_a_gpu_are_refused_not_ignored() -> None:
    with pytest.raises(InvalidParameter, match="no GPU here"):
        make(gpu_layers=10)


def test_a_model_that_fits_the_gpu_goes_there_whole(gpu_machine: Machine) -> None:
    chosen = make(machine=gpu_machine)
    assert chosen.gpu_layers == 33
    assert chosen.estimate.vram_total <= 23 * GIB
    assert chosen.estimate.ram_total < GIB


def test_a_model_too_large_for_the_gpu_is_split(gpu_machine: Machine) -> None:
    small = replace(gpu_machine, gpus=(replace(gpu_machine.gpus[0], free=4 * GIB),))
    chosen = make(machine=small)
    assert 0 < chosen.gpu_layers < 33
    assert chosen.estimate.vram_total <= 4 * GIB
    assert f"GPU: {chosen.gpu_layers} of 33 layers" in chosen.reasons


def test_a_shorter_context_is_taken_for_a_whole_gpu(gpu_machine: Machine) -> None:
    close = replace(gpu_machine, gpus=(replace(gpu_machine.gpus[0], free=7 * GIB),))
    chosen = make(machine=close)
    assert chosen.gpu_layers == 33
    assert chosen.context < 8192 or chosen.slots < 4


def test_gpu_layers_can_be_set_and_switched_off(gpu_machine: Machine) -> None:
    assert make(machine=gpu_machine, gpu_layers=5).gpu_layers == 5
    off = make(machine=gpu_machine, gpu_layers=0)
    assert off.gpu_layers == 0
    assert "GPU: not used; as asked" in off.reasons


def test_wished_gpu_layers_that_do_not_fit_become_fewer(gpu_machine: Machine) -> None:
    small = replace(gpu_machine, gpus=(replace(gpu_machine.gpus[0], free=4 * GIB),))
    assert make(machine=gpu_machine, most_gpu_layers=20).gpu_layers == 20
    assert make(machine=small, most_gpu_layers=33) == make(machine=small)
    assert "GPU: not used; as asked" in make(machine=gpu_machine, most_gpu_layers=0).reasons


def test_a_gpu_that_the_engine_cannot_use_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "can_offload", lambda: False)
    machine = replace(LAPTOP, gpus=(GPU(index=0, name="A GPU", total=24 * GIB, free=23 * GIB),))
    chosen = make(machine=machine)
    assert chosen.gpu_layers == 0
    assert chosen.estimate.vram_total == 0
    assert "GPU: not used; the engine was built without it" in chosen.reasons


def test_shared_memory_of_an_apple_gpu_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "can_offload", lambda: True)
    machine = replace(LAPTOP, gpus=(GPU(index=0, name="M", total=11 * GIB, free=11 * GIB, unified=True),))
    chosen = make(machine=machine)
    assert chosen.gpu_layers == 33
    assert chosen.estimate.ram_total > LLAMA_8B.weights_bytes
    assert chosen.estimate.ram_total <= 11 * GIB
