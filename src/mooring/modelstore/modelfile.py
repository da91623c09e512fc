"""Modelfiles: how people write down a model made from another. Format: https://docs.ollama.com/modelfile."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mooring.errors import InvalidParameter
from mooring.modelstore.model import Model

_COMMANDS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
_TWO_PART = ("PARAMETER", "MESSAGE")
_ROLES = ("system", "user", "assistant")
_QUOTE = '"""'

PARAMETERS: MappingProxyType[str, type] = MappingProxyType(
    {
        "num_ctx": int,
        "num_predict": int,
        "num_gpu": int,
        "num_thread": int,
        "seed": int,
        "top_k": int,
        "repeat_last_n": int,
        "temperature": float,
        "top_p": float,
        "min_p": float,
        "typical_p": float,
        "repeat_penalty": float,
        "presence_penalty": float,
        "frequency_penalty": float,
        "stop": list,
    }
)
"""What PARAMETER may set; ``stop`` may be given several times."""


@dataclass(slots=True)
class Modelfile:
    """A parsed Modelfile. None: not given; "" is given and empty. ``bases`` are the FROMs, in order."""

    bases: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    licenses: list[str] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    requires: str = ""


def parse_modelfile(text: str) -> Modelfile:
    """Raises InvalidParameter that names the line."""
    found = Modelfile()
    for number, command, argument, value in _statements(text):
        try:
            _apply(found, command, argument, value)
        except ValueError as error:
            raise InvalidParameter("modelfile", f"line {number}: {error}") from error
    if not found.bases:
        raise InvalidParameter("modelfile", "there is no FROM; begin with `FROM model` or `FROM ./file.gguf`")
    return found


def _statements(text: str) -> Iterator[tuple[int, str, str, str]]:
    """Yields (line number, command, first word of PARAMETER and MESSAGE, value)."""
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), 1)
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        command, _, rest = line.strip().partition(" ")
        command, argument, rest = command.upper(), "", rest.strip()
        if command not in _COMMANDS:
            near = difflib.get_close_matches(command, _COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(_COMMANDS)}"
            raise InvalidParameter("modelfile", f"line {number}: unknown command '{command[:40]}'; {hint}")
        if command in _TWO_PART:
            argument, _, rest = rest.partition(" ")
            rest = rest.strip()
        yield number, command, argument, _value(number, rest, lines)


def _value(number: int, first: str, lines: Iterator[tuple[int, str]]) -> str:
    """Undo the quotes; three of them may span lines, up to a line that ends with three."""
    if not first.startswith(_QUOTE):
        quoted = len(first) >= 2 and first[0] == first[-1] == '"'
        return first[1:-1] if quoted else first
    if first.endswith(_QUOTE) and len(first) >= 2 * len(_QUOTE):
        return first[3:-3]
    parts = [first[3:]]
    for _, line in lines:
        if line.rstrip().endswith(_QUOTE):
            return "\n".join([*parts, line.rstrip()[:-3]])
        parts.append(line)
    raise InvalidParameter("modelfile", f"line {number}: the text that opens with {_QUOTE} is never closed")


def _apply(found: Modelfile, command: str, argument: str, value: str) -> None:
    if command in ("FROM", "ADAPTER", "REQUIRES") and not value:
        raise ValueError(f"{command} needs a value")
    match command:
        case "FROM":
            found.bases.append(value)
        case "ADAPTER":
            found.adapters.append(value)
        case "TEMPLATE":
            found.template = value
        case "SYSTEM":
            found.system = value
        case "LICENSE":
            found.licenses.append(value)
        case "REQUIRES":
            found.requires = value
        case "MESSAGE":
            if argument not in _ROLES:
                raise ValueError(f"MESSAGE needs a role ({', '.join(_ROLES)}) and a text, not '{argument}'")
            found.messages.append({"role": argument, "content": value})
        case "PARAMETER":
            _set_parameter(found.parameters, argument.lower(), value)


def _set_parameter(parameters: dict[str, Any], name: str, value: str) -> None:
    kind = PARAMETERS.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, PARAMETERS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(PARAMETERS)}"
        raise ValueError(f"unknown parameter '{name[:40]}'; {hint}")
    if kind is list:
        parameters.setdefault(name, []).append(value)
        return
    try:
        parameters[name] = kind(value)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"parameter {name} needs {what}, not '{value[:40]}'") from error


def render_modelfile(model: Model) -> str:
    """The Modelfile that makes this model again, FROM itself."""
    lines = ["# Made by `mooring show --modelfile`", f"FROM {model.name.short}"]
    if model.template:
        lines.append(f"TEMPLATE {_quote(model.template)}")
    if model.system:
        lines.append(f"SYSTEM {_quote(model.system)}")
    for name, value in model.parameters.items():
        items = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {_quote(it) if isinstance(it, str) else json.dumps(it)}" for it in items]
    lines += [f"MESSAGE {m.get('role', 'user')} {_quote(m.get('content', ''))}" for m in model.messages]
    if model.requires:
        lines.append(f"REQUIRES {model.requires}")
    if model.license:
        lines.append(f"LICENSE {_quote(model.license)}")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    plain = text and text == text.strip() and '"' not in text and "\n" not in text
    return text if plain else f"{_QUOTE}{text}{_QUOTE}"
