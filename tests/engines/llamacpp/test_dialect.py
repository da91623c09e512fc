from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from mooring.engines.base import Target
from mooring.engines.llamacpp.dialect import LlamaCppDialect
from mooring.errors import (
    BadRequest,
    ContextLengthExceeded,
    InvalidParameter,
    MooringError,
    Unavailable,
    UnsupportedCapability,
    UpstreamFailed,
)
from mooring.types import Capability, ModelFormat, ModelInfo
from support.worker import TEXT, chat_body, parse_events

DIALECT = LlamaCppDialect()
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
]
RESULT = [
    {"role": "user", "content": "1+1?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c", "content": "2"},
]


def target(
    *more: Capability,
    base: Sequence[Capability] = tuple(TEXT),
    architecture: str = "llama",
    tokenizer: str = "",
) -> Target:
    info = ModelInfo(
        format=ModelFormat.GGUF,
        architecture=architecture,
        capabilities=frozenset({*base, *more}),
        embedding_length=384,
        tokenizer=tokenizer,
    )
    return Target(model="tiny:latest", context=512, info=info)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("chat/completions", chat_body("hi", stream=True, top_k=3, min_p=0.1, repeat_penalty=1.1)),
        ("chat/completions", chat_body("hi", response_format={"type": "json_object"}, logprobs=True)),
        ("completions", {"prompt": "hi", "stop": ["."]}),
        ("embeddings", {"input": ["hi"], "encoding_format": "base64"}),
    ],
)
def test_an_ordinary_request_goes_on_byte_by_byte(endpoint: str, body: dict[str, Any]) -> None:
    prepared = DIALECT.prepare(endpoint, body, target(Capability.EMBEDDING))
    assert (prepared.path, prepared.body, prepared.unary, prepared.events) == (
        f"/v1/{endpoint}",
        None,
        None,
        None,
    )


def test_native_tools_and_their_results_are_left_to_the_models_template() -> None:
    body = {"messages": RESULT, "tools": TOOLS}
    assert DIALECT.prepare("chat/completions", body, target(Capability.TOOLS)).body is None


def test_tools_that_may_be_called_need_a_template_that_knows_them() -> None:
    with pytest.raises(UnsupportedCapability, match="required"):
        DIALECT.prepare("chat/completions", chat_body("hi", tools=TOOLS), target())


def test_tool_choice_none_takes_the_tools_away() -> None:
    body = DIALECT.prepare(
        "chat/completions", chat_body("hi", tools=TOOLS, tool_choice="none"), target()
    ).body
    assert body == chat_body("hi")


def test_a_forced_call_shows_the_tools_even_to_a_model_without_a_place_for_them() -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    body = {"messages": messages, "tools": TOOLS, "tool_choice": "required"}
    sent = DIALECT.prepare("chat/completions", body, target()).body
    assert sent is not None
    assert sent["messages"][0]["content"].startswith("Be brief.\n\n")
    assert '"name": "add"' in sent["messages"][0]["content"]
    assert "tools" not in sent
    assert "tool_choice" not in sent
    assert messages[0]["content"] == "Be brief.", "the client's request must not be changed"


def test_a_forced_call_on_a_tool_model_uses_its_own_template() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    other = {"type": "function", "function": {"name": "other"}}
    body = chat_body("hi", tools=[other, *TOOLS], tool_choice=named)
    sent = DIALECT.prepare("chat/completions", body, target(Capability.TOOLS)).body
    assert sent is not None
    assert sent["tools"] == TOOLS
    assert sent["tool_choice"] == "none"
    assert sent["response_format"]["json_schema"]["schema"]["properties"]["name"] == {"const": "add"}


def test_a_named_tool_that_is_not_there_is_refused() -> None:
    named = {"type": "function", "function": {"name": "gone"}}
    with pytest.raises(InvalidParameter, match="tool_choice"):
        DIALECT.prepare("chat/completions", chat_body("hi", tools=TOOLS, tool_choice=named), target())


def test_earlier_calls_and_results_reach_a_model_without_tool_roles() -> None:
    sent = DIALECT.prepare("chat/completions", {"messages": RESULT}, target()).body
    assert sent is not None
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert json.loads(sent["messages"][1]["content"]) == {"name": "add", "arguments": {"a": 1, "b": 1}}
    assert sent["messages"][2]["content"].endswith("2")


def test_continuing_a_message_answers_with_the_new_text_only() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The sky"}]
    prepared = DIALECT.prepare(
        "chat/completions", {"messages": messages, "continue_final_message": True}, target()
    )
    assert prepared.body is not None
    assert prepared.body["add_generation_prompt"] is False
    assert prepared.unary is not None
    answer = {"choices": [{"message": {"role": "assistant", "content": "The sky is blue"}}]}
    rewritten = json.loads(prepared.unary(json.dumps(answer).encode()))
    assert rewritten["choices"][0]["message"]["content"] == " is blue"


def image(url: str) -> dict[str, Any]:
    return chat_body("") | {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    }


@pytest.mark.parametrize(
    ("endpoint", "body", "named"),
    [
        ("chat/completions", image("data:image/png;base64,AA=="), "images"),
        (
            "chat/completions",
            chat_body("hi", tools=TOOLS, tool_choice="required", logprobs=True),
            "logprobs",
        ),
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("completions", {"prompt": "a", "best_of": 2}, "best_of"),
        ("completions", {"prompt": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ("embeddings", {"input": "a"}, "embeddings"),
        ("rerank", {"query": "a", "documents": ["b"]}, "rerank"),
        ("tokenize", {"messages": []}, "messages"),
    ],
)
def test_what_the_engine_would_ignore_is_refused_by_name(
    endpoint: str, body: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedCapability, match=named):
        DIALECT.prepare(endpoint, body, target())


def test_the_worker_never_fetches_an_image_by_its_address() -> None:
    with pytest.raises(UnsupportedCapability, match="data:"):
        DIALECT.prepare("chat/completions", image("http://10.0.0.1/secret.png"), target(Capability.VISION))


def test_shorter_vectors_are_refused_and_the_full_length_accepted() -> None:
    embedder = target(Capability.EMBEDDING, base=())
    with pytest.raises(UnsupportedCapability, match="384"):
        DIALECT.prepare("embeddings", {"input": "a", "dimensions": 100}, embedder)
    assert DIALECT.prepare("embeddings", {"input": "a", "dimensions": 384}, embedder).body == {"input": "a"}


def test_an_empty_completion_prompt_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="prompt"):
        DIALECT.prepare("completions", {"prompt": ""}, target())


def entry(token: str) -> dict[str, Any]:
    top = [{"token": token, "logprob": -0.5}, {"token": "?", "logprob": -2.0}]
    return {"token": token, "logprob": -0.5, "bytes": [], "top_logprobs": top}


def test_legacy_log_probabilities_have_openais_shape() -> None:
    prepared = DIALECT.prepare("completions", {"prompt": "abc", "logprobs": 0}, target())
    assert prepared.body is not None
    assert prepared.body["logprobs"] == 1
    assert prepared.unary is not None
    answer = {"choices": [{"text": " de", "logprobs": {"content": [entry(" d"), entry("e")]}}]}
    assert json.loads(prepared.unary(json.dumps(answer).encode()))["choices"][0]["logprobs"] == {
        "tokens": [" d", "e"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{" d": -0.5}, {"e": -0.5}],
        "text_offset": [3, 5],
    }


@pytest.mark.parametrize("asked", [True, False])
def test_a_completion_streams_usage_in_an_event_of_its_own_if_asked(asked: bool) -> None:
    body = {"prompt": "a", "stream": True, "stream_options": {"include_usage": asked}}
    prepared = DIALECT.prepare("completions", body, target())
    assert prepared.events is not None
    events = prepared.events()
    text = b'data: {"choices":[{"text":"\\"usage\\":{","index":0,"finish_reason":null}]}\n\n'
    assert events.feed(text) == text
    last = b'data: {"choices":[{"text":"","index":0,"finish_reason":"stop"}],"usage":{"total_tokens":2}}\n\n'
    out = parse_events(events.feed(last))
    assert out[0]["choices"][0]["finish_reason"] == "stop"
    assert out[1:] == ([{"choices": [], "usage": {"total_tokens": 2}}] if asked else [])


@pytest.mark.parametrize("given", ["plain ASCII, [MASK]", ["a", "b"], [101, 7592, 102], [[101], [102]], []])
def test_what_a_wordpiece_model_reads_rightly_goes_on_byte_by_byte(given: Any) -> None:
    model = target(Capability.EMBEDDING, base=(), tokenizer="bert+marks")
    assert DIALECT.prepare("embeddings", {"input": given}, model).body is None


def test_other_tokenizers_get_their_text_as_it_came() -> None:
    for tokenizer in ("", "t5", "llama", "gpt2"):
        model = target(Capability.EMBEDDING, base=(), tokenizer=tokenizer)
        assert DIALECT.prepare("embeddings", {"input": ["É 한"]}, model).body is None


def test_wordpiece_texts_are_normalised_wherever_they_are_embedded() -> None:
    model = target(Capability.EMBEDDING, base=(), tokenizer="bert")
    body = {"model": "m", "input": ["ascii", "ÉTÉ", [101]], "encoding_format": "base64", "dimensions": 384}
    sent = DIALECT.prepare("embeddings", body, model).body
    assert sent == {"model": "m", "input": ["ascii", "ete", [101]], "encoding_format": "base64"}
    assert body["input"] == ["ascii", "ÉTÉ", [101]], "the client's request must not be changed"
    assert DIALECT.prepare("embeddings", {"input": "É"}, model).body == {"input": "e"}
    ranked = {"query": "É", "documents": ["Ü", {"text": "x"}]}
    assert DIALECT.prepare("rerank", ranked, model).body == {"model": None, "input": ["e", "u", "x"]}
    crossed = DIALECT.prepare("rerank", ranked, target(Capability.RERANK, base=(), tokenizer="bert")).body
    assert crossed == {"model": None, "query": "e", "documents": ["u", "x"]}
    tokenized = DIALECT.prepare("tokenize", {"prompt": "É"}, model).body
    assert tokenized is not None
    assert tokenized["content"] == "e"


def test_marks_of_the_vocabulary_are_shown_as_people_write_them() -> None:
    model = target(Capability.EMBEDDING, base=(), tokenizer="bert+marks")
    prepared = DIALECT.prepare("detokenize", {"tokens": [1]}, model)
    assert prepared.unary is not None
    assert json.loads(prepared.unary('{"content": "क\U0005093e"}'.encode())) == {"prompt": "का"}
    prepared = DIALECT.prepare("tokenize", {"prompt": "का", "return_token_strs": True}, model)
    assert prepared.unary is not None
    answer = json.loads(prepared.unary('{"tokens": [{"id": 5, "piece": "क\U0005093e"}]}'.encode()))
    assert answer["token_strs"] == ["का"]


def test_an_embedding_model_reranks_by_cosine() -> None:
    body = {"query": "q", "documents": ["far", {"text": "near"}], "top_n": 1, "return_documents": True}
    prepared = DIALECT.prepare("rerank", body, target(Capability.EMBEDDING, base=()))
    assert prepared.path == "/v1/embeddings"
    assert prepared.body is not None
    assert prepared.body["input"] == ["q", "far", "near"]
    vectors = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    assert prepared.unary is not None
    answer = json.loads(prepared.unary(json.dumps({"model": "m", "data": data, "usage": {}}).encode()))
    assert answer["results"] == [{"index": 1, "relevance_score": 0.6, "document": {"text": "near"}}]


@pytest.mark.parametrize(("architecture", "score"), [("bert", 0.5), ("qwen3", 0.0)])
def test_a_cross_encoders_logits_become_scores_between_0_and_1(architecture: str, score: float) -> None:
    reranker = target(Capability.RERANK, base=(), architecture=architecture)
    prepared = DIALECT.prepare("rerank", {"query": "q", "documents": ["a"]}, reranker)
    assert prepared.path == "/v1/rerank"
    assert prepared.unary is not None
    native = {"model": "m", "results": [{"index": 0, "relevance_score": 0.0}], "usage": {}}
    assert json.loads(prepared.unary(json.dumps(native).encode()))["results"][0]["relevance_score"] == score


def error(message: str, kind: str = "server_error", **more: Any) -> bytes:
    return json.dumps({"error": {"code": 0, "message": message, "type": kind, **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "expected", "text"),
    [
        (
            400,
            error("request…", "exceed_context_size_error", n_prompt_tokens=631, n_ctx=512),
            ContextLengthExceeded,
            "512 tokens.* 631 tokens",
        ),
        (
            500,
            error(
                "input (301 tokens) is too large to process. increase the physical batch size "
                "(current batch size: 256)"
            ),
            ContextLengthExceeded,
            "256 tokens.* 301 tokens",
        ),
        (400, error("Failed. JSON schema error at #: unrecognized type foo"), InvalidParameter, "type foo"),
        (400, error("JSON schema error at #/$defs/t1/x: no"), InvalidParameter, r"tools\[1\]"),
        (400, error("something else"), BadRequest, "something else"),
        (500, error("vector::_M_range_check: __n (which is 9)"), InvalidParameter, "tokens"),
        (501, error("no embeddings", "not_supported_error"), UnsupportedCapability, "no embeddings"),
        (503, error("Loading model", "unavailable_error"), Unavailable, "loading"),
        (500, b"<html>", UpstreamFailed, "mooring logs"),
    ],
)
def test_the_servers_errors_become_ours(
    status: int, body: bytes, expected: type[MooringError], text: str
) -> None:
    mapped = DIALECT.error(status, body, target())
    assert type(mapped) is expected
    with pytest.raises(expected, match=text):
        raise mapped
