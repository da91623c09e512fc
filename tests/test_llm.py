from __future__ import annotations

import concurrent.futures
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring import LLM
from mooring.errors import (
    Conflict,
    ContextLengthExceeded,
    InvalidParameter,
    ModelNotFound,
    UnsupportedCapability,
)
from mooring.modelstore.store import ModelStore

pytestmark = pytest.mark.weights

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def llm(weights_store: ModelStore) -> Iterator[LLM]:
    with LLM("smollm2", context=512, slots=2, home=weights_store.root.parent, offline=True) as llm:
        yield llm


def test_a_question_is_answered_with_its_token_counts(llm: LLM) -> None:
    answer = llm.chat("Say hi", max_tokens=6)
    assert answer.text
    assert 0 < answer.usage.completion_tokens <= 6
    assert answer.usage.prompt_tokens > 0
    assert answer.finish_reason in ("stop", "length")
    assert (llm.model, llm.context) == ("smollm2:135m", 512)


def test_a_conversation_streams_and_ends_with_reason_and_usage(llm: LLM) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Count to nine."}]
    chunks = list(llm.chat(messages, stream=True, max_tokens=8))
    assert "".join(chunk.text for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] in (["stop"], ["length"])
    assert chunks[-1].usage is not None


def test_a_json_schema_binds_the_answer(llm: LLM) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    assert llm.chat("Where is the Louvre?", json_schema=schema, max_tokens=60).json()["city"] in (
        "Paris",
        "Rome",
    )


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_tool_is_called(llm: LLM, stream: bool) -> None:
    question = "Weather in Paris?"
    if stream:
        chunks = list(llm.chat(question, stream=True, tools=[TOOL], tool_choice="required", max_tokens=60))
        parts = [chunk.tool_call for chunk in chunks if chunk.tool_call]
        name, arguments = parts[0].name, "".join(part.arguments for part in parts)
    else:
        (call,) = llm.chat(question, tools=[TOOL], tool_choice="required", max_tokens=60).tool_calls
        name, arguments = call.name, call.arguments
    assert name == "get_weather"
    assert "city" in json.loads(arguments)


def test_a_prompt_is_continued_without_a_template(llm: LLM) -> None:
    answer = llm.generate("The capital of France is", max_tokens=3, temperature=0)
    assert answer.text
    assert answer.usage.prompt_tokens == 5
    streamed = list(llm.generate("The capital of France is", stream=True, max_tokens=3, temperature=0))
    assert streamed[-1].usage is not None


def test_threads_share_one_model(llm: LLM) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: llm.chat(f"Say {n}", max_tokens=5), range(4)))
    assert all(answer.usage.completion_tokens for answer in answers)


def test_a_stream_that_is_left_frees_its_slot(llm: LLM) -> None:
    for _ in range(3):
        stream = llm.generate("Once upon a time", stream=True, max_tokens=400)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert llm.chat("hi", max_tokens=1).usage.completion_tokens == 1


def test_errors_are_the_servers_errors(llm: LLM) -> None:
    with pytest.raises(ContextLengthExceeded) as refused:
        llm.chat("word " * 600)
    assert refused.value.context_length == 512
    with pytest.raises(UnsupportedCapability, match="embed"):
        llm.embed("hi")
    with pytest.raises(InvalidParameter, match="max_token"):
        llm.chat("hi", max_token=3)  # type: ignore[call-overload]


def test_related_texts_have_near_vectors(weights_store: ModelStore) -> None:
    with LLM("all-minilm", home=weights_store.root.parent, offline=True) as embedder:
        cat, kitten, physics = embedder.embed(["a cat on a mat", "a kitten on a rug", "quantum physics"])
        near, far = (sum(a * b for a, b in zip(cat, other, strict=True)) for other in (kitten, physics))
        assert near > far + 0.3
        assert embedder.embed("a cat on a mat")[0] == pytest.approx(cat, abs=1e-3)
        composed, jamo = embedder.embed(["한국 café", "\u1112\u1161\u11ab\u1100\u116e\u11a8 cafe\u0301"])
        assert composed == pytest.approx(jamo, abs=1e-3)


async def test_a_file_opens_inside_a_running_event_loop(smollm2_gguf: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.gguf"
    file.symlink_to(smollm2_gguf)
    with LLM(str(file), context=256, slots=1, home=tmp_path / "home", offline=True) as llm:
        assert llm.chat("hi", max_tokens=1).usage.completion_tokens == 1
    with pytest.raises(Conflict, match="closed"):
        llm.chat("hi")


def test_offline_an_unknown_model_is_not_looked_for_outside(weights_store: ModelStore) -> None:
    with pytest.raises(ModelNotFound):
        LLM("no-such-model", home=weights_store.root.parent, offline=True)
