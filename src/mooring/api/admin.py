"""The admin API under ``/admin/v1``: workers, deployments, models and keys of this server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from mooring import __version__
from mooring.api import asgi
from mooring.api.jobs import load_lines, pull_lines
from mooring.api.services import Services
from mooring.cluster.deployment import Deployment
from mooring.cluster.hardware import read_machine
from mooring.cluster.launch_local import logs_of, tail
from mooring.cluster.planning import engine_for
from mooring.cluster.replica import Replica
from mooring.config import MAX_CONTEXT, DeploymentSettings, Duration
from mooring.errors import BadRequest, InvalidParameter, MooringError, NotFound, StoreError
from mooring.gateway.answer import error_body
from mooring.gateway.dispatch import Dispatcher
from mooring.modelstore.names import ModelName
from mooring.modelstore.store import Model
from mooring.storage.keys import Key, Role

_NDJSON = "application/x-ndjson"
_FOLLOW_SECONDS = 0.25


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LoadBody(_Body):
    model: str = Field(min_length=1)
    keep_alive: Duration | None = None
    context: int | None = Field(default=None, ge=16, le=MAX_CONTEXT)


class ModelBody(_Body):
    model: str = Field(min_length=1)


class PullBody(_Body):
    model: str = Field(min_length=1)
    name: str | None = None


class KeyBody(_Body):
    name: str = Field(min_length=1, max_length=128)
    role: Literal["admin", "member"] = "member"
    expires_at: int | None = Field(default=None, le=2**53)
    """Epoch milliseconds."""


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Held = Annotated[Services, Depends(_services)]
router = APIRouter()


@router.get("/status", summary="The server, its machine and its load.")
async def status(services: Held) -> dict[str, Any]:
    machine = await asyncio.to_thread(read_machine, None)
    deployments = services.controller.deployments.values()
    return {
        "version": __version__,
        "uptime_s": round(time.time() - services.started_at, 1),
        "url": services.url,
        "offline": services.settings.offline,
        "open": services.auth.open_mode,
        "machine": {
            "cores": machine.cores_physical,
            "ram_total": machine.ram_total,
            "ram_available": machine.ram_available,
            "gpus": [{"name": gpu.name, "total": gpu.total, "free": gpu.free} for gpu in machine.gpus],
        },
        "loaded": sum(len(deployment.ready) for deployment in deployments),
        "queued": sum(services.dispatcher.queued(deployment) for deployment in deployments),
    }


@router.get("/workers", summary="The worker processes, and why a model last failed.")
async def workers(services: Held) -> dict[str, Any]:
    deployments = list(services.controller.deployments.values())
    return {"data": [_worker(services, d, replica) for d in deployments for replica in d.replicas]}


def _worker(services: Services, deployment: Deployment, replica: Replica) -> dict[str, Any]:
    process = replica.process
    return {
        "id": replica.id,
        "model": deployment.name,
        "engine": replica.spec.engine,
        "state": replica.state,
        "pid": process.pid if process is not None else None,
        "context": replica.context,
        "slots": replica.spec.slots,
        "threads": replica.spec.threads,
        "gpu_layers": replica.spec.gpu_layers,
        "active": replica.active,
        "queued": services.dispatcher.queued(deployment),
        "served": replica.served,
        "memory_bytes": process.memory_bytes() if process is not None else 0,
        "predicted_bytes": replica.predicted_bytes,
        "progress": replica.progress,
        "load_seconds": round(replica.load_seconds, 3),
        "loaded_at": _ms(replica.loaded_at),
        "expires_at": _ms(replica.expires_at),
        "last_error": deployment.last_error,
    }


def _ms(seconds: float | None) -> int | None:
    return round(seconds * 1000) if seconds is not None else None


@router.get("/workers/{worker_id}/logs", summary="The last lines of one worker's log.")
async def worker_logs(services: Held, worker_id: str, lines: int = Query(200, ge=1, le=10_000)) -> Response:
    for path in services.settings.logs_dir.glob("*--*.log"):
        if path.stem.partition("--")[2] == worker_id:
            return PlainTextResponse("\n".join(tail(path, lines)) + "\n")
    raise NotFound(f"No log of a worker '{worker_id}'; /admin/v1/workers lists the workers.")


@router.get("/models/{name:path}/logs", summary="The log of a model's newest worker.")
async def model_logs(
    services: Held, name: str, lines: int = Query(200, ge=1, le=10_000), follow: bool = False
) -> Response:
    short = services.store.get(name).name.short
    logs = logs_of(services.settings.logs_dir, short)
    if not logs:
        raise NotFound(f"'{short}' was not loaded yet, so there is no log.")
    if follow:
        return StreamingResponse(follow_log(logs[-1], lines, services.dispatcher), media_type="text/plain")
    return PlainTextResponse("\n".join(tail(logs[-1], lines)) + "\n")


async def follow_log(path: Path, lines: int, dispatcher: Dispatcher) -> AsyncIterator[bytes]:
    """The last lines, then what is written, until the client leaves, the log is removed or the server ends."""
    try:
        size = path.stat().st_size
        yield "".join(f"{line}\n" for line in tail(path, lines)).encode()
        while not dispatcher.draining:
            await asyncio.sleep(_FOLLOW_SECONDS)
            if path.stat().st_size > size:
                with path.open("rb") as file:
                    file.seek(size)
                    new = file.read()
                size += len(new)
                yield new
    except FileNotFoundError:  # only the newest logs of a model are kept
        return


@router.post("/models/load", summary="Load a model and say how far it is (NDJSON).")
async def load(services: Held, body: LoadBody) -> Response:
    services.controller.resolve(body.model)
    lines = load_lines(services, body.model, body.keep_alive, body.context or 0)
    return StreamingResponse(lines, media_type=_NDJSON)


@router.post("/models/unload", summary="Unload a model once its running requests are done.")
async def unload(services: Held, body: ModelBody) -> dict[str, Any]:
    deployment, _ = services.controller.resolve(body.model)
    stopped = len(deployment.replicas)
    await services.controller.unload(deployment)
    return {"model": deployment.name, "stopped": stopped}


@router.post("/models/pull", summary="Fetch a model into the store (NDJSON, as Ollama's pull).")
async def pull(services: Held, body: PullBody) -> Response:
    return StreamingResponse(pull_lines(services, body.model, body.name), media_type=_NDJSON)


@router.get("/deployments", summary="What is to be deployed; restored after a restart.")
async def deployments(services: Held) -> dict[str, Any]:
    return {
        "data": [
            {"model": deployment.name, "state": deployment.state, **deployment.wish.model_dump()}
            for deployment in services.controller.deployments.values()
            if deployment.declared
        ]
    }


@router.put("/deployments/{name:path}", summary="Deploy a model, or change how it is deployed.")
async def put_deployment(services: Held, name: str, wish: DeploymentSettings) -> dict[str, Any]:
    model = services.store.get(name)
    _check_wish(wish, model)
    short = model.name.short
    await services.storage.deployments.put(short, wish)
    deployment = services.controller.declare(short, wish)
    return {"model": short, "state": deployment.state, **wish.model_dump()}


def _check_wish(wish: DeploymentSettings, model: Model) -> None:
    """Raises InvalidParameter, or UnsupportedCapability when the engine does not run the model."""
    if wish.replicas_max < wish.replicas_min:
        raise InvalidParameter("replicas_max", "must not be less than replicas_min")
    engine_for(wish, model)
    longest = model.info.context_length
    if longest and wish.context is not None and wish.context > longest:
        raise InvalidParameter("context", f"must be at most {longest}, the most that {model.name.short} has")


@router.delete("/deployments/{name:path}", summary="Take a deployment back and unload its model.")
async def delete_deployment(services: Held, name: str) -> dict[str, Any]:
    short = await _deployed(services, name)
    if not await services.storage.deployments.delete(short):
        raise NotFound(f"'{short}' is not deployed; /admin/v1/deployments lists what is.")
    await services.controller.withdraw(short)
    return {"model": short, "deleted": True}


async def _deployed(services: Services, name: str) -> str:
    """The name under which a model is deployed; the model itself may be gone from the store."""
    try:
        short = services.store.get(name).name.short
    except (NotFound, StoreError):
        short = ModelName.parse(name).short
    deployed = await services.storage.deployments.list()
    return next((known for known in deployed if known.casefold() == short.casefold()), short)


@router.get("/keys", summary="The keys, without their secrets.")
async def keys(services: Held) -> dict[str, Any]:
    return {"data": [_key(key) for key in await services.storage.keys.list()]}


@router.post("/keys", summary="Make a key; its secret is in this answer and nowhere else.", status_code=201)
async def create_key(services: Held, body: KeyBody) -> dict[str, Any]:
    key, secret = await services.storage.keys.create(body.name, Role(body.role), body.expires_at)
    await services.auth.refresh()
    return {**_key(key), "key": secret}


@router.delete("/keys/{key_id}", summary="Revoke a key.")
async def revoke_key(services: Held, key_id: str) -> dict[str, Any]:
    key = await services.storage.keys.revoke(key_id)
    await services.auth.refresh()
    return _key(key)


def _key(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "hint": key.hint,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
    }


async def _on_mooring_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, MooringError)
    headers = {name.decode(): value.decode() for name, value in asgi.error_headers(error)}
    return Response(orjson.dumps(error_body(error)), status_code=error.status, headers=headers)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    return JSONResponse(error_body(InvalidParameter(where or "body", str(first["msg"]))), 400)


async def _on_missing(request: Request, _: Exception) -> Response:
    missing = NotFound(f"There is nothing at {request.method} {request.url.path}. See docs/openapi.json.")
    return JSONResponse(error_body(missing), 404)


async def _on_unreadable(_: Request, __: Exception) -> Response:
    return JSONResponse(error_body(BadRequest("The body cannot be read as JSON.", code="invalid_json")), 400)


async def _on_unexpected(_: Request, __: Exception) -> Response:
    """Starlette raises the error again behind this answer, and the application above logs it."""
    return JSONResponse(error_body(asgi.unexpected()), 500)


async def _demand_json(request: Request) -> None:
    if request.method in ("POST", "PUT"):
        if int(request.headers.get("content-length", "0")) > 1 << 20:
            raise BadRequest("The body is larger than 1 MiB.", code="request_too_large")
        asgi.require_json(asgi.headers_of(request.scope))


def create_admin(services: Services | None) -> FastAPI:
    """The admin application; without services it can only describe itself."""
    app = FastAPI(
        title="Mooring admin",
        version=__version__,
        openapi_url=None,
        dependencies=[Depends(_demand_json)],
        exception_handlers={
            MooringError: _on_mooring_error,
            RequestValidationError: _on_invalid,
            400: _on_unreadable,
            404: _on_missing,
            405: _on_missing,
            Exception: _on_unexpected,
        },
    )
    app.state.services = services
    app.include_router(router, prefix="/admin/v1")
    return app
