"""``/v1/chat/completions`` for llama.cpp's server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

from mooring.engines.base import Prepared, Target
from mooring.engines.llamacpp.schema import check_strict
from mooring.engines.llamacpp.tools import ForcedCall, ToolCallEvents, to_tool_calls
from mooring.errors import InvalidParameter, UnsupportedCapability
from mooring.types import Capability

PATH = "/v1/chat/completions"


def prepare(body: dict[str, Any], target: Target) -> Prepared:
    messages = body["messages"]
    _check_media(messages, target)
    _check_format(body)
    changed = dict(body)
    if Capability.TOOLS not in target.capabilities and _mentions_tools(messages):
        changed["messages"] = [_without_tool_roles(message) for message in messages]
    forced = _choose_tools(changed, target)
    if forced is not None:
        return _prepare_forced(changed, forced, target)
    unary = None
    if body.get("continue_final_message"):
        changed["add_generation_prompt"] = False
        unary = _without_prefix(messages[-1])
    return Prepared(path=PATH, body=None if changed == body else changed, unary=unary)


def _check_media(messages: list[dict[str, Any]], target: Target) -> None:
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type")
            if kind == "text" or kind == "refusal":
                continue
            if kind != "image_url":
                raise UnsupportedCapability(target.model, f"'{kind}' content", "send text or images")
            if Capability.VISION not in target.capabilities:
                raise UnsupportedCapability(target.model, "images", "use a model with the vision capability")
            if not part["image_url"]["url"].startswith("data:"):
                raise UnsupportedCapability(
                    target.model, "images by address", "send the image itself as a data: URL in base64"
                )


def _check_format(body: dict[str, Any]) -> None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = wanted.get("json_schema") or {}
        if schema.get("strict"):
            check_strict(schema.get("schema"), "response_format")


def _choose_tools(body: dict[str, Any], target: Target) -> ForcedCall | None:
    """Settle ``tool_choice`` in ``body``: the call that must happen, or None with only native fields left."""
    tools = body.get("tools")
    choice = body.get("tool_choice") or "auto"
    if not tools or choice == "none":
        body.pop("tools", None)
        body.pop("tool_choice", None)
        return None
    if choice == "auto":
        if Capability.TOOLS in target.capabilities:
            return None
        raise UnsupportedCapability(
            target.model,
            'tools with tool_choice "auto"',
            'its chat template has no tools; set tool_choice to "required" or name a function, '
            "or use a model with the tools capability",
        )
    if choice == "required":
        return ForcedCall(tuple(tools))
    name = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    named = tuple(tool for tool in tools if tool["function"]["name"] == name)
    if not named:
        raise InvalidParameter("tool_choice", '"none", "auto", "required" or a function that is in \'tools\'')
    return ForcedCall(named)


def _prepare_forced(body: dict[str, Any], call: ForcedCall, target: Target) -> Prepared:
    """``response_format`` gives way: it speaks of an answer in text."""
    if body.get("logprobs"):
        raise UnsupportedCapability(target.model, "'logprobs' with a required tool call", "leave one out")
    if body.get("continue_final_message"):
        raise InvalidParameter("continue_final_message", "cannot be combined with a required tool call")
    if Capability.TOOLS in target.capabilities:  # "none" shows them to the model and leaves the grammar to us
        body |= {"tools": list(call.tools), "tool_choice": "none"}
    else:
        body["messages"] = _with_instructions(body["messages"], call.instructions())
        del body["tools"], body["tool_choice"]
    schema = {"name": "tool_call", "schema": call.schema()}
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return Prepared(path=PATH, body=body, unary=to_tool_calls, events=ToolCallEvents)


def _with_instructions(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    first = messages[0]
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{_text(first)}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _mentions_tools(messages: list[dict[str, Any]]) -> bool:
    return any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def _without_tool_roles(message: dict[str, Any]) -> dict[str, Any]:
    """Earlier calls and results as text, for a template that would leave them out."""
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the tool call:\n{_text(message)}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    lines = [_text(message)] if message.get("content") else []
    for call in calls:
        name = json.dumps(call["function"]["name"], ensure_ascii=False)
        lines.append(f'{{"name": {name}, "arguments": {call["function"]["arguments"]}}}')
    return {"role": message["role"], "content": "\n".join(lines)}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _without_prefix(last: dict[str, Any]) -> Callable[[bytes], bytes]:
    """llama.cpp repeats the continued message in a unary answer, but not in a stream; vLLM in neither."""
    prefix = _text(last)

    def rewrite(answer: bytes) -> bytes:
        data = orjson.loads(answer)
        for choice in data["choices"]:
            message = choice["message"]
            message["content"] = (message.get("content") or "").removeprefix(prefix)
        return orjson.dumps(data)

    return rewrite
