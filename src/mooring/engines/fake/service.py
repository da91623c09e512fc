"""The fake model behind the worker contract's routes."""

from __future__ import annotations

import array
import asyncio
import base64
import itertools
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from mooring.engines.base import WorkerSpec
from mooring.engines.fake import words
from mooring.engines.fake.answers import ChatAnswer, Generation, TextAnswer
from mooring.engines.fake.options import FakeOptions
from mooring.engines.http import json_response, read_json, unless_disconnected
from mooring.engines.wire import metrics_text, sse
from mooring.errors import ContextLengthExceeded, MooringError

_TOKENS_BEFORE_TROUBLE = 3


class FakeService:
    """``spec.slots`` sequences run at once, each ``options.token_delay`` seconds a token; others wait."""

    def __init__(self, spec: WorkerSpec, options: FakeOptions) -> None:
        self._spec = spec
        self._options = options
        self._slots = asyncio.Semaphore(spec.slots)
        self._running = 0
        self._waiting = 0
        self._generated = 0

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/health", self._health),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/v1/embeddings", self._embed, methods=["POST"]),
            Route("/v1/rerank", self._rerank, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/detokenize", self._detokenize, methods=["POST"]),
        ]

    async def _health(self, _: Request) -> Response:
        return json_response({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        values = {
            "fake:num_requests_running": self._running,
            "fake:num_requests_waiting": self._waiting,
            "fake:generation_tokens_total": self._generated,
        }
        return PlainTextResponse(metrics_text(values))

    async def _models(self, _: Request) -> Response:
        return json_response({"object": "list", "data": [{"id": self._spec.model, "object": "model"}]})

    async def _chat(self, request: Request) -> Response:
        body = await read_json(request)
        prompt = words.chat_prompt(body["messages"])
        last = words.message_text(body["messages"][-1])
        schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
        function = _forced_function(body)
        if function is None:
            return await self._answer(request, body, prompt, last, schema, None)
        schema = function.get("parameters") or {}
        return await self._answer(request, body, prompt, last, schema, function["name"])

    async def _complete(self, request: Request) -> Response:
        body = await read_json(request)
        prompt = body["prompt"]
        text = prompt if isinstance(prompt, str) else words.detokenize(prompt)
        return await self._answer(request, body, text, text, None, None)

    async def _answer(
        self,
        request: Request,
        body: dict[str, Any],
        prompt: str,
        last: str,
        schema: dict[str, Any] | None,
        call: str | None,
    ) -> Response:
        count = self._count(prompt)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or self._spec.context
        text = words.answer(last) if schema is None else iter([orjson.dumps(words.sample(schema)).decode()])
        limit = min(limit, self._spec.context - count)
        generation = Generation(last, count, limit, call, list(itertools.islice(text, limit + 1)))
        if "/error500" in last:
            raise MooringError("The fake engine was asked for an error; ask for something else.")
        shape = ChatAnswer if request.url.path.endswith("chat/completions") else TextAnswer
        answer = shape(self._spec.model, generation)
        if body.get("stream"):
            events = self._events(answer, bool((body.get("stream_options") or {}).get("include_usage")))
            return StreamingResponse(events, media_type="text/event-stream")
        whole = await unless_disconnected(request, self._collect(generation))
        return Response() if whole is None else json_response(answer.whole(whole))

    async def _generate(self, generation: Generation) -> AsyncIterator[str]:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            for number, token in enumerate(generation.tokens[: generation.limit]):
                if number == _TOKENS_BEFORE_TROUBLE:
                    await _trouble(generation.prompt)
                if self._options.token_delay:
                    await asyncio.sleep(self._options.token_delay)
                self._generated += 1
                yield token
        finally:
            self._running -= 1
            self._slots.release()

    async def _collect(self, generation: Generation) -> list[str]:
        return [token async for token in self._generate(generation)]

    async def _events(self, answer: ChatAnswer, usage: bool) -> AsyncIterator[bytes]:
        count = 0
        async for token in self._generate(answer.generation):
            yield sse(answer.chunk(token, first=count == 0))
            count += 1
        yield sse(answer.chunk(None, first=count == 0))
        if usage:
            yield sse(answer.frame([], answer.chunk_object) | {"usage": answer.usage(count)})
        yield sse("[DONE]")

    async def _embed(self, request: Request) -> Response:
        body = await read_json(request)
        given = body["input"]
        texts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        texts = [text if isinstance(text, str) else words.detokenize(text) for text in texts]
        tokens = sum(self._count(text, param="input") for text in texts)
        encode = _base64 if body.get("encoding_format") == "base64" else list[float]
        data = [
            {"object": "embedding", "index": index, "embedding": encode(words.embed(text))}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json_response({"object": "list", "model": self._spec.model, "data": data, "usage": usage})

    async def _rerank(self, request: Request) -> Response:
        body = await read_json(request)
        texts = [item["text"] if isinstance(item, dict) else item for item in body["documents"]]
        query = words.embed(body["query"])
        scores = [sum(a * b for a, b in zip(query, words.embed(text), strict=True)) for text in texts]
        ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])[: body.get("top_n")]
        results: list[dict[str, Any]] = [{"index": i, "relevance_score": score} for i, score in ranked]
        if body.get("return_documents"):
            results = [result | {"document": {"text": texts[result["index"]]}} for result in results]
        tokens = sum(self._count(text, param="documents") for text in (body["query"], *texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        data = {"id": f"rerank-{uuid.uuid4().hex}", "object": "list", "model": self._spec.model}
        return json_response(data | {"results": results, "usage": usage})

    async def _tokenize(self, request: Request) -> Response:
        tokens = words.tokenize((await read_json(request))["prompt"])
        return json_response(
            {"count": len(tokens), "max_model_len": self._spec.context, "tokens": tokens, "token_strs": None}
        )

    async def _detokenize(self, request: Request) -> Response:
        return json_response({"prompt": words.detokenize((await read_json(request))["tokens"])})

    def _count(self, text: str, param: str = "messages") -> int:
        """Tokens of ``text``. Raises ContextLengthExceeded when they leave no room in a slot."""
        count = len(words.tokenize(text))
        if count >= self._spec.context:
            raise ContextLengthExceeded(count, self._spec.context, param=param)
        return count


async def _trouble(prompt: str) -> None:
    """``/crash`` in the prompt ends the process, ``/hang`` the progress."""
    if "/crash" in prompt:
        os._exit(139)
    if "/hang" in prompt:
        await asyncio.Event().wait()


def _forced_function(body: dict[str, Any]) -> dict[str, Any] | None:
    functions: list[dict[str, Any]] = [tool["function"] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    if choice == "required":
        return next(iter(functions), None)
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    return next((function for function in functions if function["name"] == name), None)


def _base64(vector: list[float]) -> str:
    return base64.b64encode(array.array("f", vector).tobytes()).decode()
