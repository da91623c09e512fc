"""``mooring fit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mooring.cli.invocation import Invocation, JsonOption, invocation_of
from mooring.cli.output import format_memory, print_fields, print_json, print_line
from mooring.errors import ModelNotFound

if TYPE_CHECKING:
    from mooring.cluster.hardware import Machine
    from mooring.cluster.memory import LoadPlan
    from mooring.types import ModelInfo


def register(app: typer.Typer) -> None:
    app.command("fit")(fit)


def fit(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model of the store or the catalogue.")],
    context: Annotated[int | None, typer.Option("--ctx", min=16, help="Tokens of context per slot.")] = None,
    slots: Annotated[int | None, typer.Option(min=1, max=256, help="Sequences at once.")] = None,
    gpu_layers: Annotated[int | None, typer.Option(min=0, help="Layers on the GPU.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict the memory that a model needs here.

    Prints how it would be loaded, by the same numbers that loading and eviction use. Exits with 5 if it cannot fit.
    """
    from mooring.cluster.hardware import read_machine
    from mooring.cluster.memory import plan

    invocation = invocation_of(ctx)
    name, info, is_stored = _info(invocation, model)
    machine = read_machine(invocation.settings().memory_limit)
    planned = plan(info, machine, engine="llamacpp", context=context, slots=slots, gpu_layers=gpu_layers)
    if as_json:
        print_json(_as_json(name, planned, machine, is_stored))
    else:
        _print(name, planned, machine, is_stored)


def _info(invocation: Invocation, text: str) -> tuple[str, ModelInfo, bool]:
    """Name and figures of a stored model; of a catalogue model not here, its size alone (third value False)."""
    from mooring.cli.models import find_model
    from mooring.modelstore.catalogue import Catalogue
    from mooring.modelstore.names import ModelName
    from mooring.types import ModelFormat, ModelInfo

    try:
        found = find_model(invocation.store(), text)
        return found.name.short, found.info, True
    except ModelNotFound:
        entry = Catalogue.load().find(ModelName.parse(text))
        if entry is None:
            raise
    guess = ModelInfo(
        format=ModelFormat.GGUF, architecture="", capabilities=entry.capabilities, weights_bytes=entry.size
    )
    return entry.name.short, guess, False


def _as_json(name: str, planned: LoadPlan, machine: Machine, is_stored: bool) -> dict[str, Any]:
    """Sizes are in bytes, ``context`` in tokens per slot."""
    estimate = planned.estimate
    return {
        "model": name,
        "stored": is_stored,
        "fits": True,
        "context": planned.context,
        "slots": planned.slots,
        "threads": planned.threads,
        "gpu_layers": planned.gpu_layers,
        "weights": estimate.weights,
        "kv_cache": estimate.kv_cache,
        "compute": estimate.compute,
        "runtime": estimate.runtime,
        "ram_total": estimate.ram_total,
        "vram_total": estimate.vram_total,
        "ram_available": machine.ram_available,
        "reasons": planned.reasons,
    }


def _print(name: str, planned: LoadPlan, machine: Machine, is_stored: bool) -> None:
    estimate = planned.estimate
    print_line(
        f"{name} fits: {format_memory(estimate.ram_total)} of {format_memory(machine.ram_available)} free RAM"
    )
    print_fields(
        [
            ("weights", format_memory(estimate.weights)),
            ("KV cache", format_memory(estimate.kv_cache) if is_stored else "not known before it is pulled"),
            ("compute buffers", format_memory(estimate.compute)),
            ("runtime", format_memory(estimate.runtime)),
            ("on the GPU", format_memory(estimate.vram_total) if estimate.vram_total else ""),
        ]
    )
    print_line("It would be loaded with")
    print_fields(
        [
            ("context", f"{planned.context:,} tokens per slot" if is_stored else ""),
            ("slots", str(planned.slots)),
            ("threads", str(planned.threads)),
            ("GPU layers", str(planned.gpu_layers)),
        ]
    )
    for reason in planned.reasons:
        print_line(f"  - {reason}")
    if not is_stored:
        print_line(
            f"It is not here yet, so this is by its download size alone. Fetch it: mooring pull {name}"
        )
