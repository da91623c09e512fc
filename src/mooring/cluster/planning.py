"""From a model and a wish to the exact order for one worker."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from mooring.cluster.hardware import read_machine
from mooring.cluster.memory import LoadPlan, plan
from mooring.config import DeploymentSettings
from mooring.engines.base import EngineDef, Target, WorkerSpec
from mooring.engines.registry import get_engine
from mooring.errors import UnsupportedCapability
from mooring.ids import new_id
from mooring.modelstore.store import Model
from mooring.types import ModelFormat


@dataclass(frozen=True, slots=True)
class Planned:
    spec: WorkerSpec
    target: Target
    plan: LoadPlan


# The engine that `auto` means, by the format of the model's files.
_DEFAULT_ENGINES = {ModelFormat.GGUF: "llamacpp"}


def engine_for(wish: DeploymentSettings, model: Model) -> EngineDef:
    """The wished engine, or the default for the model's format. Raises UnsupportedCapability if none runs it."""
    name = wish.engine if wish.engine != "auto" else _DEFAULT_ENGINES.get(model.info.format)
    engine = get_engine(name) if name is not None else None
    if engine is None or model.info.format not in engine.formats:
        raise UnsupportedCapability(
            model.name.short,
            f"engine '{wish.engine}'",
            f"its files are {model.info.format}; this version serves GGUF. Pull a GGUF of it, "
            f"for example hf:ORG/REPO-GGUF:Q4_K_M.",
        )
    return engine


def plan_worker(model: Model, wish: DeploymentSettings, context: int, budget: int) -> Planned:
    """``context``: what the request wants at least (0: no wish); ``budget``: bytes that may be had.

    Raises ModelTooLarge with the numbers, UnsupportedCapability when no engine runs this format.
    """
    engine = engine_for(wish, model)
    own = model.parameters  # what a Modelfile asks for, where the deployment does not
    num_gpu = own.get("num_gpu", -1)  # often written for another machine, so a bound here and not an order
    chosen = plan(
        model.info,
        read_machine(None),
        engine=engine.name,
        context=max(context, wish.context or own.get("num_ctx", 0)) or None,
        slots=wish.slots,
        threads=wish.threads or own.get("num_thread"),
        gpu_layers=wish.gpu_layers,
        most_gpu_layers=num_gpu if num_gpu >= 0 else None,
        budget=budget,
        extra_weights=sum(file.size for file in (model.projector, *model.adapters) if file is not None),
    )
    capabilities = model.capabilities & engine.capabilities
    spec = WorkerSpec(
        engine=engine.name,
        model=model.name.short,
        worker_id=new_id("worker"),
        weights=model.weights.path,
        projector=model.projector.path if model.projector is not None else None,
        adapters=tuple(adapter.path for adapter in model.adapters),
        capabilities=capabilities,
        context=chosen.context,
        slots=chosen.slots,
        threads=chosen.threads,
        gpu_layers=chosen.gpu_layers,
        pooling=model.info.pooling,
        chat_template=model.info.chat_template if model.template else "",
        options=wish.options,
        api_key=secrets.token_urlsafe(24),
    )
    target = Target(
        model=model.name.short,
        context=chosen.context,
        info=replace(model.info, capabilities=capabilities),
    )
    return Planned(spec, target, chosen)
