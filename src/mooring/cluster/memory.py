"""Fitting a model into this machine: which context, how many slots, how many layers on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mooring.cluster.footprint import MemoryEstimate, embeds, estimate, kv_cache_bytes
from mooring.cluster.hardware import GPU, Machine, can_offload
from mooring.errors import InvalidParameter, ModelTooLarge
from mooring.types import ModelInfo

__all__ = ["LoadPlan", "MemoryEstimate", "estimate", "plan"]

GIB = 1024**3
# What a model gets when nobody says: tokens per slot, and the fewest that are worth loading it for.
_DEFAULT_CONTEXT = 8192
_DEFAULT_EMBEDDING_CONTEXT = 2048
_LEAST_CONTEXT = 512
_SLOTS = (4, 2, 1)
# Slots beyond the first may together hold this much of the budget as KV cache.
_KV_SHARE = 0.25
# Of what is free; the rest is the predictor's error and the system's breath.
_USABLE = 0.95
# Bits per weight of the usual quantisations (llama.cpp's quantize README).
_BITS = {"Q8_0": 8.5, "Q4_K_M": 4.85, "Q3_K_M": 3.9, "Q2_K": 3.35}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What to load a model with. ``context``: tokens per slot; ``reasons`` say how each choice came about."""

    context: int
    slots: int
    threads: int
    gpu_layers: int
    estimate: MemoryEstimate
    reasons: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """One model on one machine, with what the user fixed; None is free to choose.

    ``most_gpu_layers`` bounds ``gpu_layers`` where that is free.
    """

    info: ModelInfo
    context: int | None
    slots: int | None
    gpu_layers: int | None
    most_gpu_layers: int | None
    ram: int
    gpus: tuple[GPU, ...]
    extra_weights: int

    @property
    def unified(self) -> bool:
        return any(gpu.unified for gpu in self.gpus)

    @property
    def vram(self) -> int:
        return int(_USABLE * sum(gpu.free for gpu in self.gpus))

    @property
    def all_layers(self) -> int:
        return self.info.block_count + 1

    @property
    def most_layers(self) -> int:
        return min(self.all_layers, self.all_layers if self.most_gpu_layers is None else self.most_gpu_layers)

    def estimate(self, context: int, slots: int, gpu_layers: int) -> MemoryEstimate:
        return estimate(
            self.info,
            context=context,
            slots=slots,
            gpu_layers=gpu_layers,
            extra_weights=self.extra_weights,
            unified=self.unified,
        )


def plan(
    info: ModelInfo,
    machine: Machine,
    *,
    engine: str,
    context: int | None = None,
    slots: int | None = None,
    threads: int | None = None,
    gpu_layers: int | None = None,
    most_gpu_layers: int | None = None,
    budget: int | None = None,
    extra_weights: int = 0,
) -> LoadPlan:
    """Choose what is not given: a context up to the model's (8192, an embedding model's 2048), one to four
    slots, all physical cores, as many layers on the GPUs as fit.

    ``most_gpu_layers`` bounds that last choice, and is no error without a GPU. ``budget``: bytes of RAM that
    may be used (None: what is free). Raises ModelTooLarge with the numbers and with what would fit;
    InvalidParameter for a context beyond the model's, or ``gpu_layers`` without a GPU.
    """
    wish = _Wish(
        info=info,
        context=context,
        slots=slots,
        gpu_layers=gpu_layers,
        most_gpu_layers=most_gpu_layers,
        ram=machine.ram_available if budget is None else budget,
        gpus=_usable_gpus(machine, engine, most_gpu_layers if gpu_layers is None else gpu_layers),
        extra_weights=extra_weights,
    )
    _check(wish)
    chosen = _choose(wish)
    if chosen is None:
        raise ModelTooLarge(_explain(wish), param="model")
    found_context, found_slots, found_layers, found = chosen
    return LoadPlan(
        context=found_context,
        slots=found_slots,
        threads=threads or machine.cores_physical,
        gpu_layers=found_layers,
        estimate=found,
        reasons=_reasons(wish, machine, found_context, found_slots, threads, found_layers),
    )


def _usable_gpus(machine: Machine, engine: str, gpu_layers: int | None) -> tuple[GPU, ...]:
    if not machine.gpus or engine != "llamacpp" or gpu_layers == 0 or not can_offload():
        return ()
    return machine.gpus


def _check(wish: _Wish) -> None:
    longest = wish.info.context_length
    if wish.context is not None and longest and wish.context > longest:
        raise InvalidParameter(
            "context", f"{wish.context} tokens are more than the model's {longest}; ask for fewer"
        )
    if wish.gpu_layers and not wish.gpus:
        raise InvalidParameter(
            "gpu_layers",
            "there is no GPU here that the installed engine can use. Leave it out to run on the CPU, or install "
            "the build of xllamacpp for your GPU; `mooring doctor` shows what is found",
        )


def _choose(wish: _Wish) -> tuple[int, int, int, MemoryEstimate] | None:
    """(context, slots, GPU layers, estimate): the largest with all that may go on the GPUs, else any."""
    candidates = list(_candidates(wish))
    if wish.gpus and wish.gpu_layers is None:
        for context, slots in candidates:
            found = wish.estimate(context, slots, wish.most_layers)
            if _fits(wish, found):
                return context, slots, wish.most_layers, found
    for context, slots in candidates:
        layers = _gpu_layers(wish, context, slots)
        found = wish.estimate(context, slots, layers)
        if _fits(wish, found):
            return context, slots, layers, found
    return None


def _candidates(wish: _Wish) -> Iterator[tuple[int, int]]:
    """(context, slots), best first: the context is kept longer than the slots."""
    for context in (wish.context,) if wish.context is not None else _contexts(wish.info):
        for slots in (wish.slots,) if wish.slots is not None else _SLOTS:
            modest = kv_cache_bytes(wish.info, context, slots) <= _KV_SHARE * wish.ram
            if wish.slots is not None or slots == 1 or modest:
                yield context, slots


def _contexts(info: ModelInfo) -> Iterator[int]:
    context = _DEFAULT_EMBEDDING_CONTEXT if embeds(info) else _DEFAULT_CONTEXT
    context = min(context, info.context_length or context)
    yield context
    while context // 2 >= _LEAST_CONTEXT:
        context //= 2
        yield context


def _gpu_layers(wish: _Wish, context: int, slots: int) -> int:
    if wish.gpu_layers is not None or not wish.gpus:
        return wish.gpu_layers or 0
    fitting = (n for n in range(wish.most_layers, 0, -1) if _fits_gpu(wish, wish.estimate(context, slots, n)))
    return next(fitting, 0)


def _fits(wish: _Wish, found: MemoryEstimate) -> bool:
    return found.ram_total <= _USABLE * wish.ram and _fits_gpu(wish, found)


def _fits_gpu(wish: _Wish, found: MemoryEstimate) -> bool:
    return (found.ram_total if wish.unified else found.vram_total) <= wish.vram if wish.gpus else True


def _reasons(
    wish: _Wish, machine: Machine, context: int, slots: int, threads: int | None, gpu_layers: int
) -> list[str]:
    best = next(_contexts(wish.info))
    reasons = []
    if wish.context is not None:
        reasons.append(f"context {context}: as asked")
    elif context == best:
        longest = wish.info.context_length
        reasons.append(
            f"context {context}: " + ("the model's" if context == longest else "enough for most uses")
        )
    else:
        more = wish.estimate(best, slots, gpu_layers).ram_total
        reasons.append(f"context {context}: {best} would need {_gib(more)} of {_gib(wish.ram)}")
    if wish.slots is not None:
        reasons.append(f"slots {slots}: as asked")
    else:
        reasons.append(
            f"slots {slots}: " + ("the most by default" if slots == _SLOTS[0] else "memory for no more")
        )
    reasons.append(
        f"threads {threads or machine.cores_physical}: " + ("as asked" if threads else "physical cores")
    )
    if wish.gpus:
        asked = ", as asked" if wish.gpu_layers is not None else ""
        reasons.append(f"GPU: {gpu_layers} of {wish.all_layers} layers{asked}")
    elif machine.gpus:
        unwanted = 0 in (wish.gpu_layers, wish.most_layers)
        reasons.append(f"GPU: not used; {'as asked' if unwanted else 'the engine was built without it'}")
    return reasons


def _explain(wish: _Wish) -> str:
    """The smallest that was tried, what there is, and what would fit."""
    context, slots = list(_candidates(wish))[-1]
    least = wish.estimate(context, slots, _gpu_layers(wish, context, slots))
    message = f"The model needs {_gib(least.ram_total)} of memory with {_shape(context, slots)}"
    if least.vram_total:
        message += f" (and {_gib(least.vram_total)} on the GPU, where {_gib(wish.vram)} can be used)"
    usable = _gib(int(_USABLE * wish.ram))
    return f"{message}, but only {usable} can be used. {_what_would_fit(wish)}"


def _what_would_fit(wish: _Wish) -> str:
    free = _choose(replace(wish, context=None, slots=None, gpu_layers=None))
    if free is not None:
        context, slots, _, found = free
        return (
            f"It would fit with context {context} and {slots} slots ({_gib(found.ram_total)}): ask for less."
        )
    for label, bits in _BITS.items():
        weights = int(wish.info.parameters * bits / 8)
        smaller = replace(wish.info, weights_bytes=weights, quantization=label)
        if 0 < weights < wish.info.weights_bytes:
            found_smaller = _choose(replace(wish, info=smaller, context=None, slots=None, gpu_layers=None))
            if found_smaller is not None:
                return (
                    f"Its {label} quantisation would fit ({_gib(found_smaller[3].ram_total)}): pull that one."
                )
    return "Stop other programs or models (`mooring ps`), or choose a smaller model."


def _shape(context: int, slots: int) -> str:
    return f"context {context} and {slots} slot{'s' if slots > 1 else ''}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
