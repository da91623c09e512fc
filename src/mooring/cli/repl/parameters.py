"""The parameters that ``/set parameter`` takes (a Modelfile's names among them), in the words of the API."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

from mooring.errors import InvalidParameter


class Parameter(NamedTuple):
    """``wire`` is the field of the request body; ``context`` and ``keep_alive`` are asked of the loader."""

    wire: str
    read: Callable[[str], Any]
    example: str


PARAMETERS: dict[str, Parameter] = {
    "temperature": Parameter("temperature", float, "0.7"),
    "top_p": Parameter("top_p", float, "0.9"),
    "top_k": Parameter("top_k", int, "40"),
    "min_p": Parameter("min_p", float, "0.05"),
    "seed": Parameter("seed", int, "42"),
    "max_tokens": Parameter("max_tokens", int, "256"),
    "num_predict": Parameter("max_tokens", int, "256"),
    "stop": Parameter("stop", lambda text: text.split(), "END"),
    "repeat_penalty": Parameter("repeat_penalty", float, "1.1"),
    "presence_penalty": Parameter("presence_penalty", float, "0.5"),
    "frequency_penalty": Parameter("frequency_penalty", float, "0.5"),
    "context": Parameter("context", int, "8192"),
    "num_ctx": Parameter("context", int, "8192"),
}


def read_parameter(name: str, text: str) -> tuple[str, Any]:
    """``("num_predict", "64")`` → ``("max_tokens", 64)``. Raises InvalidParameter."""
    parameter = PARAMETERS.get(name)
    if parameter is None:
        near = difflib.get_close_matches(name, PARAMETERS, n=1)
        known = near[0] if near else ", ".join(PARAMETERS)
        raise InvalidParameter(name, f"no such parameter; did you mean {known}?")
    try:
        return parameter.wire, parameter.read(text)
    except ValueError:
        raise InvalidParameter(
            name, f"'{text}' is no value for it; write for example {parameter.example}"
        ) from None
