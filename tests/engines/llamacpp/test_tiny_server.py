"""The real llama.cpp server on tiny random weights: what needs no model that makes sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.modelstore.convert.bert import convert_bert
from mooring.modelstore.formats import inspect
from mooring.types import Capability
from support.tiny_models import write_bert_folder, write_llama
from support.worker import make_spec, start_worker


def test_a_cross_encoder_ranks_documents_with_scores_between_0_and_1(tmp_path: Path) -> None:
    weights = tmp_path / "ranker.gguf"
    convert_bert(write_bert_folder(tmp_path / "folder", ranks=True, segments=1), weights, dtype="f32")
    info = inspect(weights)
    assert Capability.RERANK in info.capabilities
    spec = make_spec(
        "llamacpp", weights, capabilities=info.capabilities, pooling=info.pooling, context=info.context_length
    )
    with start_worker(spec, tmp_path / "log", architecture=info.architecture) as worker:
        answer = worker.ask("rerank", {"query": "a", "documents": ["b c", "c", "a"], "top_n": 2})
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert answer["usage"]["total_tokens"] > 0


def test_a_cross_encoder_reads_accents_hangul_and_long_words_as_it_was_trained(tmp_path: Path) -> None:
    weights = tmp_path / "ranker.gguf"
    convert_bert(write_bert_folder(tmp_path / "folder", ranks=True, segments=1), weights, dtype="f32")
    info = inspect(weights)
    spec = make_spec("llamacpp", weights, capabilities=info.capabilities, pooling="rank", context=128)
    documents = ["the e\u0301", "the e", "the " + "b" * 101, "the 漢", "the b", "the कि"]
    with start_worker(spec, tmp_path / "log", architecture="bert", tokenizer=info.tokenizer) as worker:
        answer = worker.ask("rerank", {"query": "á" * 101, "documents": documents, "return_documents": True})
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[2] == pytest.approx(scores[3], abs=1e-6), "an unknown word"
    assert scores[2] == pytest.approx(scores[5], abs=1e-6), "an unknown word"
    assert scores[2] != pytest.approx(scores[4], abs=1e-6)
    assert {result["document"]["text"] for result in answer["results"]} == set(documents)


def test_a_worker_gives_its_memory_back_when_told_to_stop(tmp_path: Path) -> None:
    with start_worker(make_spec("llamacpp", write_llama(tmp_path / "tiny.gguf")), tmp_path / "log") as worker:
        assert worker.ask("completions", {"prompt": "a", "max_tokens": 1})["usage"]["completion_tokens"] == 1
        assert worker.process.stdin is not None
        worker.process.stdin.write("stop\n")
        worker.process.stdin.flush()
        assert worker.process.wait(1) == 0
