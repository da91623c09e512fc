"""Engines by name, loaded when first asked for: the control plane never imports what it does not run."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from mooring.engines.base import EngineDef
from mooring.errors import InvalidParameter

_ENGINES = {
    "llamacpp": "mooring.engines.llamacpp:ENGINE",
    "fake": "mooring.engines.fake:ENGINE",
}


def engine_names() -> tuple[str, ...]:
    return tuple(_ENGINES)


def get_engine(name: str) -> EngineDef:
    """Raises InvalidParameter that lists the engines there are."""
    location = _ENGINES.get(name)
    if location is None:
        raise InvalidParameter("engine", f"unknown engine '{name}'; there are: {', '.join(_ENGINES)}")
    module, attribute = location.split(":")
    return cast("EngineDef", getattr(import_module(module), attribute))
