"""What a model's own Modelfile sets for every request: parameters, system prompt, opening messages.

A request's own fields win. ``num_ctx``, ``num_gpu`` and ``num_thread`` are for loading (``cluster/planning``).
"""

from __future__ import annotations

from typing import Any

from mooring.modelstore.store import Model

# PARAMETER of a Modelfile → field of a request.
_FIELDS = {
    "num_predict": "max_tokens",
    "seed": "seed",
    "top_k": "top_k",
    "repeat_last_n": "repeat_last_n",
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}


def apply_defaults(body: dict[str, Any], model: Model) -> bool:
    """Fill in what ``body`` leaves open; whether anything was."""
    changed = False
    for parameter, field in _FIELDS.items():
        value = model.parameters.get(parameter)
        if value is None or body.get(field) is not None or (field == "max_tokens" and value <= 0):
            continue
        body[field] = value
        changed = True
    if "messages" in body and (model.system or model.messages):
        body["messages"] = _with_opening(body["messages"], model)
        changed = True
    return changed


def _with_opening(messages: list[dict[str, Any]], model: Model) -> list[dict[str, Any]]:
    """The request's system prompt, or else the model's; then the model's messages; then the rest."""
    own = bool(messages) and messages[0].get("role") in ("system", "developer")
    system = messages[:1] if own else [{"role": "system", "content": model.system}] if model.system else []
    return [*system, *model.messages, *messages[1 if own else 0 :]]
