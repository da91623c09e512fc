"""``mooring ps``."""

from __future__ import annotations

import time
from typing import Any

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import error_line, format_memory, format_span, print_json, print_line, print_table


def register(app: typer.Typer) -> None:
    app.command("ps")(ps)


def ps(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show the models that are loaded."""
    from mooring.cli.server import connect

    workers = connect(invocation_of(ctx)).client.get("/admin/v1/workers")["data"]
    if as_json:
        print_json(workers)
        return
    if not workers:
        print_line("No models are loaded; the first request loads one.")
        return
    columns = ("MODEL", "WORKER", "ENGINE", "STATE", "MEMORY", "CONTEXT", "SLOTS", "REQUESTS", "UNTIL")
    print_table(columns, [_row(worker) for worker in workers])
    for worker in workers:
        if worker.get("last_error"):
            error_line(f"{worker['model']} ({worker['id']}): {worker['last_error']}")


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    memory = worker.get("memory_bytes") or worker.get("predicted_bytes") or 0
    return (
        worker["model"],
        worker["id"],
        worker["engine"],
        worker["state"],
        format_memory(memory),
        str(worker.get("context") or ""),
        str(worker.get("slots") or ""),
        f"{worker.get('active', 0)} active, {worker.get('queued', 0)} waiting",
        _until(worker),
    )


def _until(worker: dict[str, Any]) -> str:
    expires = worker.get("expires_at")
    if worker.get("active"):
        return "in use"
    return f"in {format_span(expires / 1000 - time.time())}" if expires else "for ever"
