"""Cross-origin access for the web origins that the settings name; none by default."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own (x-stainless-…)
        expose_headers=["x-request-id", "x-mooring-worker", "x-mooring-queue-position", "retry-after"],
    )
