"""``/v1/rerank`` in Jina's and Cohere's shape.

A cross-encoder scores each pair itself; an embedding model is answered by the cosine of its vectors, as
vLLM's score does.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from typing import Any

import orjson

from mooring.engines.base import Prepared, Target
from mooring.engines.llamacpp.wordpiece import WordPiece
from mooring.errors import UnsupportedCapability
from mooring.types import Capability

# Architectures whose ranking head already ends in probabilities; all others give logits.
_PROBABILITIES = frozenset({"qwen3", "qwen3vl"})


def prepare(body: dict[str, Any], target: Target) -> Prepared:
    texts = [item["text"] if isinstance(item, dict) else item for item in body["documents"]]
    wordpiece = WordPiece(target.info.tokenizer)
    query, documents = wordpiece.text(body["query"]), wordpiece.input(texts)
    if Capability.RERANK in target.capabilities:
        return Prepared(
            path="/v1/rerank",
            body={"model": body.get("model"), "query": query, "documents": documents},
            unary=_answer(body, texts, lambda data: _head_scores(data, target)),
        )
    if Capability.EMBEDDING in target.capabilities:
        return Prepared(
            path="/v1/embeddings",
            body={"model": body.get("model"), "input": [query, *documents]},
            unary=_answer(body, texts, _cosines),
        )
    raise UnsupportedCapability(
        target.model, "/v1/rerank", "use a reranker or an embedding model, for example all-minilm"
    )


def _head_scores(data: dict[str, Any], target: Target) -> list[float]:
    scores = [0.0] * len(data["results"])
    for result in data["results"]:
        score = float(result["relevance_score"])
        logits = target.info.architecture not in _PROBABILITIES
        scores[result["index"]] = _sigmoid(score) if logits else score
    return scores


def _sigmoid(logit: float) -> float:
    return 0.5 * (1.0 + math.tanh(0.5 * logit))


def _cosines(data: dict[str, Any]) -> list[float]:
    """The vectors come normalised, so the dot product is the cosine."""
    query, *documents = (item["embedding"] for item in sorted(data["data"], key=lambda item: item["index"]))
    return [math.fsum(a * b for a, b in zip(query, vector, strict=True)) for vector in documents]


def _answer(
    body: dict[str, Any], texts: list[str], scores: Callable[[dict[str, Any]], list[float]]
) -> Callable[[bytes], bytes]:
    def rewrite(answer: bytes) -> bytes:
        data = orjson.loads(answer)
        ranked = sorted(enumerate(scores(data)), key=lambda pair: -pair[1])[: body.get("top_n")]
        results: list[dict[str, Any]] = []
        for index, score in ranked:
            result: dict[str, Any] = {"index": index, "relevance_score": score}
            if body.get("return_documents"):
                result["document"] = {"text": texts[index]}
            results.append(result)
        return orjson.dumps(
            {
                "id": f"rerank-{uuid.uuid4().hex}",
                "object": "list",
                "model": data["model"],
                "results": results,
                "usage": data["usage"],
            }
        )

    return rewrite
