"""The gateway: one canonical request in, one answer out.

parse → validate → resolve the model → wait for a slot → the engine's dialect → forward → release.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from mooring.cluster.controller import Controller
from mooring.cluster.deployment import Deployment
from mooring.cluster.planning import engine_for
from mooring.config import parse_duration
from mooring.engines.base import Prepared
from mooring.engines.registry import get_engine
from mooring.errors import BadRequest, InvalidParameter, MooringError
from mooring.gateway import fanout
from mooring.gateway.answer import Answer, encode
from mooring.gateway.auth import Caller
from mooring.gateway.defaults import apply_defaults
from mooring.gateway.dispatch import Dispatcher, Lease
from mooring.gateway.proxy import Proxy, WorkerGone
from mooring.gateway.requests import LOCAL_FIELDS, CommonRequest, check_capability, validate
from mooring.modelstore.store import Model
from mooring.telemetry.metrics import Metrics

_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a request asks of the deployment itself. Seconds and tokens; None and 0: nothing."""

    keep_alive: float | None
    context: int


class Gateway:
    def __init__(
        self, controller: Controller, dispatcher: Dispatcher, proxy: Proxy, metrics: Metrics
    ) -> None:
        self.controller = controller
        self.dispatcher = dispatcher
        self._proxy = proxy
        self._metrics = metrics

    async def handle(self, endpoint: str, raw: bytes, caller: Caller, headers: Mapping[str, str]) -> Answer:
        """Answer one request of an inference endpoint (the part of its path behind ``/v1/``).

        Raises a MooringError for everything that goes wrong before the first byte.
        """
        began = time.monotonic()
        model, status = "", 200
        try:
            body = _parse(raw)
            request = validate(endpoint, body)
            deployment, entry = self.controller.resolve(request.model)
            model = deployment.name
            engine = engine_for(deployment.wish, entry)
            check_capability(endpoint, request, model, entry.capabilities & engine.capabilities)
            wish = _wish_of(request, headers)
            _check_context(wish, entry)
            changed = _canonicalise(body)
            if _generates(endpoint) and apply_defaults(body, entry):
                changed = True
            if changed:
                raw = encode(body)
            parts = fanout.split(body) if not engine.native_n and _generates(endpoint) else [body]
            if len(parts) == 1:
                raw = raw if parts[0] is body else encode(parts[0])
                answer = await self._send(endpoint, parts[0], raw, deployment, caller, wish)
            else:
                answer = await self._fan_out(endpoint, body, parts, deployment, caller, wish)
        except MooringError as error:
            status = error.status
            raise
        finally:
            if status != 200:
                self._metrics.requests.labels(endpoint, model, status).inc()
        if answer.events is not None:
            answer.events = self._timed(answer.events, endpoint, model, began)
        else:
            self._finished(endpoint, model, began)
        return answer

    def _finished(self, endpoint: str, model: str, began: float) -> None:
        self._metrics.requests.labels(endpoint, model, 200).inc()
        self._metrics.duration.labels(endpoint, model).observe(time.monotonic() - began)

    async def _timed(
        self, events: AsyncGenerator[bytes, None], endpoint: str, model: str, began: float
    ) -> AsyncGenerator[bytes, None]:
        first = True
        try:
            async for event in events:
                if first:
                    first = False
                    self._metrics.first_token.labels(endpoint, model).observe(time.monotonic() - began)
                yield event
        finally:
            await events.aclose()
            self._finished(endpoint, model, began)

    async def _send(
        self,
        endpoint: str,
        body: dict[str, Any],
        raw: bytes,
        deployment: Deployment,
        caller: Caller,
        wish: _Wish,
    ) -> Answer:
        """One request to one replica; once more to another if the worker dies before its first byte."""
        for attempt in range(_ATTEMPTS):
            lease = await self.dispatcher.acquire(
                deployment, tenant=caller.tenant, context=wish.context, keep_alive=wish.keep_alive
            )
            try:
                prepared = self._prepare(endpoint, body, lease)
            except BaseException:
                lease.release()
                raise
            try:
                answer = await self._proxy.send(prepared, raw, stream=bool(body.get("stream")), lease=lease)
            except WorkerGone as gone:
                if attempt + 1 == _ATTEMPTS:
                    raise gone.error from gone
                continue
            answer.headers = {
                "x-mooring-worker": lease.replica.id,
                "x-mooring-queue-position": str(lease.position),
                "x-mooring-queue-ms": str(round(lease.waited * 1000)),
            }
            return answer
        raise AssertionError("unreachable")

    def _prepare(self, endpoint: str, body: dict[str, Any], lease: Lease) -> Prepared:
        return get_engine(lease.replica.spec.engine).dialect.prepare(endpoint, body, lease.replica.target)

    async def _fan_out(
        self,
        endpoint: str,
        body: dict[str, Any],
        parts: list[dict[str, Any]],
        deployment: Deployment,
        caller: Caller,
        wish: _Wish,
    ) -> Answer:
        async def send(part: dict[str, Any]) -> Answer:
            return await self._send(endpoint, part, encode(part), deployment, caller, wish)

        run = fanout.stream if body.get("stream") else fanout.unary
        return await run(parts, body.get("n") or 1, send)


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _wish_of(request: CommonRequest, headers: Mapping[str, str]) -> _Wish:
    keep_alive = parse_duration(request.keep_alive) if request.keep_alive is not None else None
    context = request.num_ctx or 0
    if (asked := headers.get("x-mooring-context")) is not None:
        if not asked.isdecimal() or len(asked) > 8 or not 16 <= int(asked) <= 2**24:
            raise InvalidParameter("x-mooring-context", "must be a number of tokens, such as 8192")
        context = max(context, int(asked))
    return _Wish(keep_alive, context)


def _check_context(wish: _Wish, model: Model) -> None:
    """A wish beyond the model is refused here, before it costs anybody else a load."""
    longest = model.info.context_length
    if longest and wish.context > longest:
        raise InvalidParameter(
            "num_ctx", f"{wish.context} tokens are more than the model's {longest}; ask for fewer"
        )


def _canonicalise(body: dict[str, Any]) -> bool:
    """Take out what is for Mooring alone and unify synonyms; whether anything changed."""
    local = LOCAL_FIELDS & body.keys()
    for field in local:
        del body[field]
    longest = body.pop("max_completion_tokens", None)
    if longest is not None:
        body["max_tokens"] = longest
    return bool(local) or longest is not None


def _generates(endpoint: str) -> bool:
    return endpoint in ("chat/completions", "completions")
