"""OpenAI's endpoints, and those beside them that local servers share (rerank, tokenize)."""

from __future__ import annotations

import secrets
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from mooring.api import asgi
from mooring.api.security import secret_of
from mooring.api.services import Services
from mooring.errors import MooringError, NotFound
from mooring.modelstore.store import Model
from mooring.telemetry.logging import get_logger

log = get_logger(__name__)

# Path → the canonical endpoint that answers it.
INFERENCE = {
    "/v1/chat/completions": "chat/completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/rerank": "rerank",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}


async def inference(services: Services, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
    """One inference request, from its first byte to its last."""
    request_id = (b"x-request-id", f"req_{secrets.token_hex(12)}".encode())
    headers = asgi.headers_of(scope)
    try:
        caller = await services.auth.caller(secret_of(headers))
        asgi.require_json(headers)
        raw = await asgi.read_body(receive, services.settings.max_body_bytes, headers.get("content-length"))
        async with asgi.until_client_leaves(receive):
            answer = await services.gateway.handle(endpoint, raw, caller, headers)
            await asgi.send_answer(send, answer, [request_id])
    except asgi.ClientLeft:
        log.debug("client left", endpoint=endpoint)
    except MooringError as error:
        await asgi.send_error(send, error, [request_id])


async def list_models(services: Services, scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /v1/models``: OpenAI's list, with what a local user wants to know of each model besides."""
    data = [describe(services, model) for model in services.store.list()]
    await asgi.send_bytes(send, 200, orjson.dumps({"object": "list", "data": data}), [asgi.JSON_TYPE])


async def get_model(services: Services, name: str, send: Send) -> None:
    """``GET /v1/models/{model}``. Raises ModelNotFound."""
    if not name:
        raise NotFound("Name a model: /v1/models/MODEL. /v1/models lists them.")
    model = services.store.get(name)
    await asgi.send_bytes(send, 200, orjson.dumps(describe(services, model)), [asgi.JSON_TYPE])


def describe(services: Services, model: Model) -> dict[str, Any]:
    """Sizes in bytes, ``created`` in epoch seconds, context in tokens."""
    deployment = services.controller.deployments.get(model.name.short)
    loaded = deployment.ready if deployment is not None else []
    return {
        "id": model.name.short,
        "object": "model",
        "created": model.modified_at // 1000,
        "owned_by": "mooring",
        "capabilities": sorted(model.capabilities),
        "state": deployment.state if deployment is not None else "cold",
        "context_length": model.info.context_length,
        "loaded_context_length": max((replica.context for replica in loaded), default=None),
        "format": model.info.format,
        "architecture": model.info.architecture,
        "quantization": model.info.quantization,
        "parameters": model.info.parameters,
        "size": model.size,
    }
