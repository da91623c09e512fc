from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from mooring.errors import ContextLengthExceeded, UnsupportedCapability, UpstreamFailed
from support.worker import Worker, chat_body, make_spec, start_worker


def test_a_chat_is_echoed_with_its_token_counts(fake: Worker) -> None:
    answer = fake.chat("red boat")
    assert answer["choices"][0]["message"]["content"] == "You have just said: red boat"
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["model"] == "tiny:latest"


def test_a_stream_has_every_token_once_and_usage_when_asked(fake: Worker) -> None:
    events = list(
        fake.stream("chat/completions", chat_body("/count 40", stream_options={"include_usage": True}))
    )
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])
    assert text.split() == [str(number) for number in range(40)]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["usage"]["completion_tokens"] == 40


def test_max_tokens_cuts_with_reason_length(fake: Worker) -> None:
    answer = fake.ask("completions", {"prompt": "/count 40", "max_tokens": 5})
    assert answer["choices"][0] == {
        "index": 0,
        "text": "0 1 2 3 4",
        "logprobs": None,
        "finish_reason": "length",
    }


def test_a_long_prompt_is_refused_with_both_numbers(fake: Worker) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        fake.chat("word " * 600)
    assert refused.value.context_length == 512
    assert refused.value.prompt_tokens > 600


def test_a_required_tool_is_called_with_arguments_by_its_schema(fake: Worker) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    choice = fake.chat("go", tools=tools, tool_choice="required")["choices"][0]
    call = choice["message"]["tool_calls"][0]["function"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["name"] == "weather"
    assert json.loads(call["arguments"]) == {"city": "fake", "days": 1}


def test_texts_that_share_words_are_near_each_other(fake: Worker) -> None:
    answer = fake.ask(
        "rerank", {"query": "red boat", "documents": ["a green car", "the red boat"], "top_n": 1}
    )
    assert [result["index"] for result in answer["results"]] == [1]


def test_tokens_turn_back_into_the_text(fake: Worker) -> None:
    text = " größenwahnsinnig  ✓ 船\n"
    tokens = fake.ask("tokenize", {"prompt": text})
    assert tokens["count"] == len(tokens["tokens"])
    assert fake.ask("detokenize", {"tokens": tokens["tokens"]}) == {"prompt": text}


def test_parameters_the_fake_engine_lacks_are_refused_by_name(fake: Worker) -> None:
    with pytest.raises(UnsupportedCapability, match="logprobs"):
        fake.chat("hi", logprobs=True)


def test_error500_is_an_upstream_failure(fake: Worker) -> None:
    with pytest.raises(UpstreamFailed):
        fake.chat("/error500")


def test_a_crash_comes_after_three_tokens_and_ends_the_process(tmp_path: Path) -> None:
    with start_worker(make_spec("fake", tmp_path), tmp_path / "log") as worker:
        seen: list[object] = []
        with pytest.raises(http.client.IncompleteRead):
            seen.extend(worker.stream("chat/completions", chat_body("/crash")))
        assert len(seen) == 3
        assert worker.process.wait(5) == 139


def test_a_client_that_goes_away_frees_its_slot(tmp_path: Path) -> None:
    with start_worker(make_spec("fake", tmp_path, slots=1), tmp_path / "log") as worker:
        stream = worker.call("/v1/chat/completions", chat_body("/hang", stream=True))
        stream.readline()
        stream.close()
        assert worker.chat("next")["choices"][0]["finish_reason"] == "stop"
