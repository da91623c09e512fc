"""How the gateway speaks to llama.cpp's server: what it misreads is set right or refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from mooring.engines.base import Prepared, Target
from mooring.engines.llamacpp import chat, completions, rerank
from mooring.engines.llamacpp.wordpiece import WordPiece
from mooring.errors import (
    BadRequest,
    ContextLengthExceeded,
    InvalidParameter,
    MooringError,
    Unavailable,
    UnsupportedCapability,
    UpstreamFailed,
)
from mooring.types import Capability

_TOO_LARGE = re.compile(
    r"input \((\d+) tokens\) is too (?:large|long).*?(?:current batch size: (\d+))?\)?$", re.DOTALL
)
_SCHEMA = re.compile(r"JSON schema error.*|.*[Gg]rammar.*", re.DOTALL)
_TOOL = re.compile(r"#/\$defs/t(\d+)")


class LlamaCppDialect:
    """Streams and most requests go through as they are."""

    def prepare(self, endpoint: str, body: dict[str, Any], target: Target) -> Prepared:
        if endpoint == "chat/completions":
            _require(
                target, Capability.CHAT, endpoint, "use /v1/completions, or a model with a chat template"
            )
            return chat.prepare(body, target)
        if endpoint == "completions":
            _require(target, Capability.COMPLETION, endpoint, "use a generative model")
            return completions.prepare(body, target)
        if endpoint == "embeddings":
            _require(target, Capability.EMBEDDING, endpoint, "use an embedding model, for example all-minilm")
            return _embeddings(body, target)
        if endpoint == "rerank":
            return rerank.prepare(body, target)
        if endpoint == "tokenize":
            return _tokenize(body, target)
        assert endpoint == "detokenize", endpoint
        return Prepared(path="/detokenize", body={"tokens": body["tokens"]}, unary=_detokenized(target))

    def error(self, status: int, body: bytes, target: Target) -> MooringError:
        detail = _detail(body)
        kind, message = detail.get("type", ""), str(detail.get("message", ""))
        if kind == "exceed_context_size_error":
            return ContextLengthExceeded(detail["n_prompt_tokens"], detail["n_ctx"])
        if too_large := _TOO_LARGE.search(message):
            limit = int(too_large[2] or target.context)
            return ContextLengthExceeded(int(too_large[1]), limit, param="input")
        if "vector::_M_range_check" in message or "invalid tokens" in message:
            return InvalidParameter("tokens", "a token id is outside the model's vocabulary")
        if status == 400:
            return _bad_schema(message) or BadRequest(message)
        if status == 501:
            return UnsupportedCapability(target.model, "this endpoint", message)
        if status == 503:
            return Unavailable(f"Model '{target.model}' is still loading; try again.", retry_after=1)
        return UpstreamFailed(
            f"The worker of model '{target.model}' answered {status}: {message[:500]}. "
            f"`mooring logs {target.model}` may say why."
        )


def _require(target: Target, capability: Capability, endpoint: str, instead: str) -> None:
    if capability not in target.capabilities:
        raise UnsupportedCapability(target.model, f"/v1/{endpoint}", instead)


def _bad_schema(message: str) -> BadRequest | None:
    found = _SCHEMA.search(message)
    if found is None:
        return None
    tool = _TOOL.search(message)  # as tools.py names the schemas of forced calls
    param = f"tools[{tool[1]}].function.parameters" if tool else "response_format"
    return InvalidParameter(param, f"cannot be turned into a grammar; mend the schema: {found[0]}")


def _detail(body: bytes) -> dict[str, Any]:
    try:
        detail = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {"message": body.decode(errors="replace")}
    return detail if isinstance(detail, dict) else {"message": str(detail)}


def _embeddings(body: dict[str, Any], target: Target) -> Prepared:
    wanted = body.get("dimensions")
    if wanted not in (None, target.info.embedding_length):
        raise UnsupportedCapability(
            target.model,
            f"'dimensions' = {wanted}",
            f"its vectors have {target.info.embedding_length}; leave 'dimensions' out and shorten them yourself",
        )
    texts = WordPiece(target.info.tokenizer).input(body["input"])
    if wanted is None and texts is body["input"]:
        return Prepared(path="/v1/embeddings")
    rest = {key: value for key, value in body.items() if key != "dimensions"}
    return Prepared(path="/v1/embeddings", body={**rest, "input": texts})


def _tokenize(body: dict[str, Any], target: Target) -> Prepared:
    """vLLM's request and answer (https://docs.vllm.ai, "Tokenizer API"), of which ``messages`` is refused."""
    if body.get("messages") is not None:
        raise UnsupportedCapability(target.model, "'messages' on /tokenize", "send the text as 'prompt'")

    wordpiece = WordPiece(target.info.tokenizer)

    def rewrite(answer: bytes) -> bytes:
        tokens = orjson.loads(answer)["tokens"]
        named = body.get("return_token_strs")
        strings = [wordpiece.shown(_piece(token["piece"])) for token in tokens] if named else None
        ids = tokens if strings is None else [token["id"] for token in tokens]
        data = {"count": len(ids), "max_model_len": target.context, "tokens": ids, "token_strs": strings}
        return orjson.dumps(data)

    wanted = {
        "content": wordpiece.text(body["prompt"]),
        "add_special": body.get("add_special_tokens", True),
        "with_pieces": bool(body.get("return_token_strs")),
    }
    return Prepared(path="/tokenize", body=wanted, unary=rewrite)


def _piece(piece: str | list[int]) -> str:
    """A token that is not UTF-8 by itself comes as its bytes."""
    return piece if isinstance(piece, str) else bytes(piece).decode("utf-8", "replace")


def _detokenized(target: Target) -> Callable[[bytes], bytes]:
    def rewrite(answer: bytes) -> bytes:
        shown = WordPiece(target.info.tokenizer).shown(orjson.loads(answer)["content"])
        return orjson.dumps({"prompt": shown})

    return rewrite
