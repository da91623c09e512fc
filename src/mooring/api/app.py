"""The ASGI application: the hot path straight through, everything else by Starlette and FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from mooring import __version__
from mooring.api import asgi, openai
from mooring.api.admin import create_admin
from mooring.api.cors import with_cors
from mooring.api.metrics import metrics_page
from mooring.api.schema import inference_paths
from mooring.api.security import check_host, check_origin, is_loopback, secret_of
from mooring.api.services import Services
from mooring.api.web import create_pages
from mooring.errors import MooringError, NotFound
from mooring.gateway.auth import require_admin
from mooring.telemetry.logging import get_logger

log = get_logger(__name__)


class App:
    """Routes a request; every error that reaches here is answered in OpenAI's shape."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._admin = create_admin(services)
        self._pages = create_pages()
        self._loopback = is_loopback(services.settings.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._admin(scope, receive, send)
            return
        started = finished = False

        async def watched_send(message: Any) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        try:
            await self._route(scope, receive, watched_send)
        except MooringError as error:
            await asgi.send_error(send, error)
        except Exception:  # the last line of defence: the cause is logged, the client gets an answer
            log.exception("unexpected error", path=scope["path"])
            if finished:
                return
            if started:
                raise
            await asgi.send_error(send, asgi.unexpected())

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, path, method = self._services, scope["path"], scope["method"]
        self._protect(scope)
        endpoint = openai.INFERENCE.get(path)
        if endpoint is not None and method == "POST":
            await openai.inference(services, endpoint, scope, receive, send)
        elif path == "/health":
            await asgi.send_bytes(send, 200, b'{"status":"ok"}', [asgi.JSON_TYPE])
        elif path.startswith("/admin/v1/"):
            headers = asgi.headers_of(scope)
            require_admin(await services.auth.caller(secret_of(headers)))
            await self._admin(scope, receive, send)
        elif path == "/metrics" or path.startswith("/v1/"):
            await self._read(path, method, scope, receive, send)
        elif method in ("GET", "HEAD"):
            await self._pages(scope, receive, send)
        else:
            raise NotFound(f"There is nothing at {method} {path}.")

    def _protect(self, scope: Scope) -> None:
        """In open mode: who asks must not be a foreign web page, whatever name it gave this machine."""
        if not self._services.auth.open_mode:
            return
        headers = asgi.headers_of(scope)
        settings = self._services.settings
        check_host(headers, (*settings.allowed_hosts, settings.host), addresses=not self._loopback)
        check_origin(headers, settings.allowed_origins)

    async def _read(self, path: str, method: str, scope: Scope, receive: Receive, send: Send) -> None:
        """``/v1/models`` and ``/metrics``."""
        services = self._services
        if method not in ("GET", "HEAD"):
            known = ", ".join(sorted(openai.INFERENCE))
            raise NotFound(f"There is nothing at {method} {path}. POST goes to: {known}.")
        caller = await services.auth.caller(secret_of(asgi.headers_of(scope)))
        if path == "/v1/models":
            await openai.list_models(services, scope, receive, send)
        elif path.startswith("/v1/models/"):
            await openai.get_model(services, path.removeprefix("/v1/models/"), send)
        elif path == "/metrics":
            if not services.auth.open_mode:
                require_admin(caller)
            await metrics_page(services, send)
        else:
            raise NotFound(f"There is nothing at {path}. /v1/models lists the models.")


def create_app(services: Services) -> ASGIApp:
    """The application of one server."""
    return with_cors(App(services), services.settings.allowed_origins)


def openapi_document() -> dict[str, Any]:
    """The OpenAPI 3.1 document of everything this server answers; needs no server."""
    admin: FastAPI = create_admin(None)
    document = admin.openapi()
    paths, schemas = inference_paths()
    document["info"] = {"title": "Mooring", "version": __version__}
    document["paths"] = paths | document["paths"]
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
    return document
