"""OpenAPI for the inference endpoints, generated from the types that validate their requests."""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.api.openai import INFERENCE
from mooring.gateway.requests import REQUESTS

_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_SUMMARIES = {
    "chat/completions": "Answer a conversation; a stream of server-sent events with 'stream': true.",
    "completions": "Continue a prompt.",
    "embeddings": "Embed texts.",
    "rerank": "Order documents by relevance to a query.",
    "tokenize": "The token ids of a prompt or a conversation.",
    "detokenize": "The text of token ids.",
}


def inference_paths() -> tuple[dict[str, Any], dict[str, Any]]:
    """(paths, component schemas)."""
    _, schemas = msgspec.json.schema_components(REQUESTS.values(), ref_template="#/components/schemas/{name}")
    schemas["Error"] = _ERROR
    paths = {path: {"post": _operation(path, endpoint)} for path, endpoint in INFERENCE.items()}
    paths["/v1/models"] = {"get": _reading("listModels", "The models of this server and their state.")}
    item = _reading("getModel", "One model.")
    item["parameters"] = [
        {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}},
    ]
    paths["/v1/models/{model}"] = {"get": item}
    paths["/health"] = {"get": _reading("health", "Whether the server is up.")}
    return paths, schemas


def _operation(path: str, endpoint: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{REQUESTS[endpoint].__name__}"}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "summary": _SUMMARIES[endpoint],
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}},
        "responses": _responses(),
    }


def _reading(operation: str, summary: str) -> dict[str, Any]:
    return {"operationId": operation, "summary": summary, "responses": _responses()}


def _responses() -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"200": {"description": "The answer."}, "default": {"description": "An error.", **error}}
