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
    from mooring.modelstore.catalogue import Entry


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
    from mooring.modelstore.catalogue import Catalogue
    from mooring.modelstore.names import ModelName

    invocation = invocation_of(ctx)
    machine = read_machine(invocation.settings().memory_limit)
    wish = {"context": context, "slots": slots, "gpu_layers": gpu_layers}
    given = {name: value for name, value in wish.items() if value is not None}
    try:
        name, planned = _plan_stored(invocation, model, machine, given)
        is_stored = True
    except ModelNotFound:
        entry = Catalogue.load().find(ModelName.parse(model))
        if entry is None:
            raise
        name, planned, is_stored = entry.name.short, _plan_by_size(entry, machine, given), False
    if as_json:
        print_json(_as_json(name, planned, machine, is_stored))
    else:
        _print(name, planned, machine, is_stored)


def _plan_stored(
    invocation: Invocation, text: str, machine: Machine, wish: dict[str, int]
) -> tuple[str, LoadPlan]:
    """By the planner of the server, for its deployment of the model and the wish on top of it."""
    from mooring.cli.models import find_model
    from mooring.cluster.planning import plan_worker
    from mooring.config import DeploymentSettings

    model = find_model(invocation.store(), text)
    deployed = invocation.settings().deployments.get(model.name.short, DeploymentSettings())
    planned = plan_worker(model, deployed.model_copy(update=wish), 0, machine.ram_available)
    return model.name.short, planned.plan


def _plan_by_size(entry: Entry, machine: Machine, wish: dict[str, int]) -> LoadPlan:
    """Of a model that is not here only the size of its weights is known."""
    from mooring.cluster.memory import plan
    from mooring.types import ModelFormat, ModelInfo

    guess = ModelInfo(
        format=ModelFormat.GGUF, architecture="", capabilities=entry.capabilities, weights_bytes=entry.size
    )
    return plan(
        guess,
        machine,
        engine="llamacpp",
        context=wish.get("context"),
        slots=wish.get("slots"),
        gpu_layers=wish.get("gpu_layers"),
    )


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
    least = "" if is_stored else "at least "
    needs, free = format_memory(estimate.ram_total), format_memory(machine.ram_available)
    print_line(f"{name} fits: it needs {least}{needs} of {free} free memory")
    print_fields(
        [
            ("weights", format_memory(estimate.weights)),
            ("KV cache", format_memory(estimate.kv_cache) if is_stored else "not known before it is pulled"),
            ("compute", format_memory(estimate.compute)),
            ("runtime", format_memory(estimate.runtime)),
            ("on the GPU", format_memory(estimate.vram_total) if estimate.vram_total else ""),
        ]
    )
    if not is_stored:
        print_line(
            f"It is not here yet, so this is by its download size alone. Fetch it: mooring pull {name}"
        )
        return
    print_line("It would be loaded with")
    for reason in planned.reasons:
        print_line(f"  {reason}")
