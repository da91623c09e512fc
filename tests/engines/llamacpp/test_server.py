"""The real llama.cpp server on real weights."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mooring.errors import BadRequest, ContextLengthExceeded
from support.worker import Worker, chat_body, make_spec, send_spec, start_worker

pytestmark = pytest.mark.weights

CITY = {"type": "string"}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": CITY}, "required": ["city"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers",
            "parameters": {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/N"}, "b": {"$ref": "#/$defs/N"}},
                "required": ["a", "b"],
                "$defs": {"N": {"type": "integer"}},
            },
        },
    },
]


def test_a_chat_answers_under_the_public_name_with_usage(smollm2: Worker) -> None:
    answer = smollm2.chat("Say hi", max_tokens=5)
    assert answer["model"] == "tiny:latest"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 5


def test_a_required_tool_is_called_with_arguments_by_its_schema(smollm2: Worker) -> None:
    choice = smollm2.chat(
        "What is the weather in Paris?", tools=TOOLS, tool_choice="required", max_tokens=100
    )["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    call = choice["message"]["tool_calls"][0]["function"]
    required = {tool["function"]["name"]: tool["function"]["parameters"]["required"] for tool in TOOLS}
    assert set(required[call["name"]]) <= set(json.loads(call["arguments"]))


def test_a_named_tool_streams_its_arguments(smollm2: Worker) -> None:
    named = {"type": "function", "function": {"name": "add"}}
    body = chat_body("Add 5 and 6", tools=TOOLS, tool_choice=named, max_tokens=100)
    events = list(smollm2.stream("chat/completions", body | {"stream_options": {"include_usage": True}}))
    choices = [event["choices"][0] for event in events if event["choices"]]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    arguments = json.loads("".join(call["function"]["arguments"] for call in calls))
    assert all(isinstance(arguments[key], int) for key in ("a", "b"))
    assert choices[-1]["finish_reason"] == "tool_calls"
    assert events[-1]["usage"]["completion_tokens"] > 0


def test_a_json_schema_binds_the_answer(smollm2: Worker) -> None:
    schema = {
        "type": "object",
        "properties": {"city": CITY, "warm": {"type": "boolean"}},
        "required": ["city", "warm"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "strict": True, "schema": schema}}
    answer = smollm2.chat("Weather in Paris?", response_format=wanted, max_tokens=120, temperature=0)
    data = json.loads(answer["choices"][0]["message"]["content"])
    assert set(data) == {"city", "warm"}


def test_a_broken_json_schema_is_the_callers_error(smollm2: Worker) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": {"type": "city"}}}
    with pytest.raises(BadRequest, match="unrecognized type city"):
        smollm2.chat("hi", response_format=wanted)


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(smollm2: Worker) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        smollm2.chat("word " * 600)
    assert refused.value.context_length == 512
    assert refused.value.prompt_tokens > 600


def test_a_last_assistant_message_is_continued_only_on_request(smollm2: Worker) -> None:
    body = {
        "messages": [
            {"role": "user", "content": "Count"},
            {"role": "assistant", "content": "One, two, three,"},
        ],
        "max_tokens": 4,
        "temperature": 0,
    }
    new_turn = smollm2.ask("chat/completions", body)
    continued = smollm2.ask("chat/completions", body | {"continue_final_message": True})
    assert new_turn["usage"]["prompt_tokens"] > continued["usage"]["prompt_tokens"]
    assert not continued["choices"][0]["message"]["content"].startswith("One")


def test_legacy_log_probabilities_are_those_of_the_text(smollm2: Worker) -> None:
    choice = smollm2.ask("completions", {"prompt": "The sky is", "max_tokens": 3, "logprobs": 2})["choices"][
        0
    ]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert all(len(top) in (2, 3) for top in choice["logprobs"]["top_logprobs"])


def test_tokens_turn_back_into_the_text(smollm2: Worker) -> None:
    tokens = smollm2.ask("tokenize", {"prompt": "Grüße an 船", "return_token_strs": True})
    assert tokens["count"] == len(tokens["token_strs"])
    assert smollm2.ask("detokenize", {"tokens": tokens["tokens"]}) == {"prompt": "Grüße an 船"}


def test_more_streams_than_slots_all_finish(smollm2: Worker) -> None:
    def run(number: int) -> str | None:
        events = list(smollm2.stream("chat/completions", chat_body(f"Say {number}", max_tokens=8)))
        return str(events[-1]["choices"][0]["finish_reason"])

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert set(pool.map(run, range(6))) <= {"stop", "length"}


def test_a_client_that_goes_away_frees_its_slot(smollm2: Worker) -> None:
    for _ in range(smollm2.spec.slots):
        with smollm2.call("/v1/completions", {"prompt": "a", "stream": True, "ignore_eos": True}) as stream:
            stream.readline()
    answer = smollm2.ask("completions", {"prompt": "a", "max_tokens": 1})
    assert answer["usage"]["completion_tokens"] == 1


def test_a_damaged_file_is_named_and_the_log_says_why(smollm2_gguf: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "half.gguf"
    with smollm2_gguf.open("rb") as whole:
        damaged.write_bytes(whole.read(4_000_000))
    log = tmp_path / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mooring.engines.llamacpp.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        *_, last = send_spec(process, make_spec("llamacpp", damaged))
    assert (last["event"], last["code"]) == ("failed", "invalid_model_file")
    assert str(damaged) in last["error"]
    assert "corrupted or incomplete" in log.read_text()


def test_sigterm_ends_a_busy_worker_within_a_second(smollm2_gguf: Path, tmp_path: Path) -> None:
    body = {"prompt": "a", "stream": True, "ignore_eos": True}
    with (
        start_worker(make_spec("llamacpp", smollm2_gguf), tmp_path / "log") as worker,
        worker.call("/v1/completions", body) as stream,
    ):
        stream.readline()
        worker.process.terminate()
        worker.process.wait(1)


def test_related_sentences_are_closer_than_unrelated_ones(minilm: Worker) -> None:
    texts = ["a kitten rests on a rug", "quantum chromodynamics"]
    answer = minilm.ask("rerank", {"query": "A cat sits on the mat", "documents": texts})
    first, second = answer["results"]
    assert (first["index"], second["index"]) == (0, 1)
    assert first["relevance_score"] > second["relevance_score"] + 0.3


def test_a_text_too_long_to_embed_is_refused_with_both_numbers(minilm: Worker) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        minilm.ask("embeddings", {"input": ["short", "word " * 600]})
    assert (refused.value.prompt_tokens, refused.value.context_length) == (602, 512)
