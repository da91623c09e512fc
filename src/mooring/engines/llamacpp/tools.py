"""Tool calls that must happen: ``tool_choice`` "required" or a named function.

llama.cpp's own handling depends on the model's template and lets small models answer in prose. Here the
answer is bound by a grammar to ``{"name": <one of the tools>, "arguments": <by its schema>}``, and rewritten
into OpenAI's ``tool_calls`` (https://platform.openai.com/docs/api-reference/chat/object).
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from mooring.engines.llamacpp.schema import Definitions, check_strict
from mooring.engines.llamacpp.sse import event_data, to_event
from mooring.errors import InvalidParameter

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
_BRACE_OR_QUOTE = re.compile(r'[{}"\\]')


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """The tools of which one must be called (each as in the request)."""

    tools: tuple[dict[str, Any], ...]

    def schema(self) -> dict[str, Any]:
        """Of the answer. Raises InvalidParameter on parameters that are not an object's schema."""
        definitions = Definitions()
        options = []
        for index, tool in enumerate(self.tools):
            reference = definitions.add(f"t{index}", _parameters(tool, index), _param(index))
            options.append(
                {
                    "type": "object",
                    "properties": {"name": {"const": tool["function"]["name"]}, "arguments": reference},
                    "required": ["name", "arguments"],
                    "additionalProperties": False,
                }
            )
        body = options[0] if len(options) == 1 else {"anyOf": options}
        return {**body, "$defs": definitions.defs}

    def instructions(self) -> str:
        """For models whose chat template has no place for tools."""
        listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in self.tools)
        return (
            f"You can call these tools:\n{listed}\n"
            'Answer with one call as JSON: {"name": "<tool>", "arguments": {<its arguments>}}'
        )


def _param(index: int) -> str:
    return f"tools[{index}].function.parameters"


def _parameters(tool: dict[str, Any], index: int) -> dict[str, Any]:
    function = tool["function"]
    schema = function.get("parameters") or {}
    if schema.get("type", "object") != "object":
        raise InvalidParameter(_param(index), 'the schema of a tool\'s arguments must have "type": "object"')
    if function.get("strict"):
        check_strict(schema, _param(index))
    return {"type": "object", "properties": {}, **schema}


class CallParser:
    """Reads the answer's text as it comes, in pieces cut anywhere."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.id = f"call_{uuid.uuid4().hex[:24]}"
        self.complete = False
        self.unparsed = ""
        self._depth = 0
        self._in_string = False
        self._skip = False

    def feed(self, text: str) -> str:
        """The part of the arguments that ``text`` brought."""
        if self.name is None:
            self.unparsed += text
            head = _HEAD.match(self.unparsed)
            if head is None:
                return ""
            self.name = json.loads(head[1])
            text, self.unparsed = self.unparsed[head.end() :], ""
        return "" if self.complete else self._until_closed(text)

    def _until_closed(self, text: str) -> str:
        start = 0
        if self._skip and text:
            start, self._skip = 1, False
        while match := _BRACE_OR_QUOTE.search(text, start):
            start = match.end()
            symbol = match[0]
            if symbol == "\\":
                self._skip = start >= len(text)
                start += 1
            elif symbol == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if symbol == "{" else -1
                if self._depth == 0:
                    self.complete = True
                    return text[:start]
        return text


def _finish(parser: CallParser, reason: str | None) -> str | None:
    return "tool_calls" if reason == "stop" and parser.complete else reason


def to_tool_calls(answer: bytes) -> bytes:
    """A unary answer. A call cut short before its name is known stays text (finish_reason "length")."""
    data = orjson.loads(answer)
    for choice in data["choices"]:
        parser = CallParser()
        message = choice["message"]
        arguments = parser.feed(message.get("content") or "")
        if parser.name is None:
            continue
        function = {"name": parser.name, "arguments": arguments}
        message["content"] = None
        message["tool_calls"] = [{"id": parser.id, "type": "function", "function": function}]
        choice["finish_reason"] = _finish(parser, choice["finish_reason"])
    return orjson.dumps(data)


class ToolCallEvents:
    """The same for a stream: content deltas become ``tool_calls`` deltas (an EventFilter)."""

    def __init__(self) -> None:
        self._parser = CallParser()

    def feed(self, event: bytes) -> bytes:
        chunk = event_data(event)
        if chunk is None or not chunk.get("choices"):
            return event
        choice = chunk["choices"][0]
        delta = choice["delta"]
        text = delta.pop("content", None)
        if text:
            call = self._delta(text)
            if call is not None:
                delta["tool_calls"] = [call]
        if choice["finish_reason"] is not None:
            if self._parser.unparsed:
                delta["content"] = self._parser.unparsed
            choice["finish_reason"] = _finish(self._parser, choice["finish_reason"])
        elif not delta:
            return b""
        return to_event(chunk)

    def _delta(self, text: str) -> dict[str, Any] | None:
        known = self._parser.name
        arguments = self._parser.feed(text)
        if known is None and self._parser.name is not None:
            function = {"name": self._parser.name, "arguments": arguments}
            return {"index": 0, "id": self._parser.id, "type": "function", "function": function}
        return {"index": 0, "function": {"arguments": arguments}} if arguments else None
