from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.engines.llamacpp.sse import to_event
from mooring.engines.llamacpp.tools import ForcedCall, ToolCallEvents, to_tool_calls
from mooring.errors import InvalidParameter
from support.worker import parse_events


def tool(name: str, parameters: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    return to_event({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})


def run_stream(pieces: list[str], reason: str = "stop") -> list[dict[str, Any]]:
    events = ToolCallEvents()
    sent = [chunk({"role": "assistant", "content": None}), *(chunk({"content": piece}) for piece in pieces)]
    data = b"".join(events.feed(event) for event in (*sent, chunk({}, reason), b"data: [DONE]\n\n"))
    assert data.endswith(b"data: [DONE]\n\n")
    return parse_events(data)


def joined(events: list[dict[str, Any]]) -> tuple[str, str]:
    """Name and arguments as OpenAI's clients put them together."""
    calls = [call for event in events for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["type"] == "function"
    assert all("id" not in call and "name" not in call["function"] for call in calls[1:])
    return calls[0]["function"]["name"], "".join(call["function"]["arguments"] for call in calls)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    arguments=st.dictionaries(st.text(), json_values, max_size=3),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=30),
)
def test_a_streamed_call_is_whole_wherever_the_chunks_are_cut(
    arguments: dict[str, Any], indent: int | None, ascii_only: bool, cuts: list[int]
) -> None:
    text = json.dumps({"name": "add", "arguments": arguments}, indent=indent, ensure_ascii=ascii_only)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    events = run_stream([text[a:b] for a, b in itertools.pairwise(edges)])
    name, written = joined(events)
    assert (name, json.loads(written)) == ("add", arguments)
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_arguments_arrive_while_they_are_written() -> None:
    events = run_stream(['{"name": "add", "arguments": {"a"', ": 1", "}", "}"])
    parts = [event["choices"][0]["delta"].get("tool_calls") for event in events]
    assert [part[0]["function"]["arguments"] for part in parts if part] == ['{"a"', ": 1", "}"]


def test_a_call_cut_by_max_tokens_ends_with_length() -> None:
    events = run_stream(['{"name": "add", "arguments": {"a": 1'], reason="length")
    assert joined(events) == ("add", '{"a": 1')
    assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_a_call_cut_before_its_name_is_known_is_handed_out_as_text() -> None:
    events = run_stream(['{"name": "ad'], reason="length")
    last = events[-1]["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({"content": '{"name": "ad'}, "length")


def test_usage_and_reasoning_pass_through_a_tool_stream() -> None:
    events = ToolCallEvents()
    usage = to_event({"choices": [], "usage": {"total_tokens": 3}})
    assert events.feed(usage) == usage
    assert parse_events(events.feed(chunk({"reasoning_content": "hm"})))[0]["choices"][0]["delta"] == {
        "reasoning_content": "hm"
    }


def test_a_unary_call_is_rewritten() -> None:
    message = {"role": "assistant", "content": '{"name":"add","arguments":{"a":"\\"}\\\\"}}'}
    answer = {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"total_tokens": 1},
    }
    data = json.loads(to_tool_calls(json.dumps(answer).encode()))
    choice = data["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"a": '"}\\'}
    assert data["usage"] == {"total_tokens": 1}


def test_two_tools_with_a_definition_of_the_same_name_keep_their_own() -> None:
    def with_item(kind: str) -> dict[str, Any]:
        item = {"type": kind}
        return {"properties": {"x": {"$ref": "#/$defs/Item"}}, "required": ["x"], "$defs": {"Item": item}}

    schema = ForcedCall((tool("a", with_item("string")), tool("b", with_item("integer")))).schema()
    kinds = []
    for option in schema["anyOf"]:
        arguments = schema["$defs"][option["properties"]["arguments"]["$ref"].rsplit("/", 1)[1]]
        assert "$defs" not in arguments
        kinds.append(schema["$defs"][arguments["properties"]["x"]["$ref"].rsplit("/", 1)[1]]["type"])
    assert kinds == ["string", "integer"]


def test_a_recursive_schema_stays_recursive() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "tag": {"$ref": "#/definitions/T~1x"}}}
    schema = ForcedCall((tool("a", {**node, "definitions": {"T/x": {"type": "string"}}}),)).schema()
    assert schema["$defs"]["t0"]["properties"]["next"] == {"$ref": "#/$defs/t0"}
    assert schema["$defs"]["t0x1"] == {"type": "string"}


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    schema = ForcedCall((tool("now"),)).schema()
    assert schema["$defs"] == {"t0": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"type": "array"}, "object"),
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, "not local"),
        ({"properties": {"a": {"$ref": "#/$defs/Gone"}}}, "points nowhere"),
    ],
)
def test_an_unusable_tool_schema_is_refused_by_the_tools_place(
    parameters: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidParameter, match=named) as refused:
        ForcedCall((tool("ok"), tool("bad", parameters))).schema()
    assert refused.value.param == "tools[1].function.parameters"


def test_a_strict_tool_promises_only_what_can_be_enforced() -> None:
    with pytest.raises(InvalidParameter, match="pattern"):
        ForcedCall(
            (tool("a", {"properties": {"x": {"type": "string", "pattern": "a+"}}}, strict=True),)
        ).schema()
