"""``mooring stop``."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_json, print_line
from mooring.errors import InvalidParameter


def register(app: typer.Typer) -> None:
    app.command("stop")(stop)


def stop(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(help="A loaded model.", show_default=False)] = None,
    server: Annotated[
        bool, typer.Option("--server", help="Stop the server of the home folder instead.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Unload a model, or stop the server.

    Requests under way are finished first. The next request for an unloaded model loads it again.
    """
    from mooring.cli.server import connect, stop_server

    if (model is None) != server:
        raise InvalidParameter("stop", "name a model to unload (`mooring ps` lists them), or give --server")
    invocation = invocation_of(ctx)
    if model is None:
        if invocation.url:
            raise InvalidParameter("--url", "only the server of the home folder can be stopped from here")
        running = stop_server(invocation)
        stopped, text = {"url": running.url, "pid": running.pid}, f"The server at {running.url} is stopped."
    else:
        connect(invocation).client.post("/admin/v1/models/unload", {"model": model})
        stopped, text = {"model": model}, f"{model} is unloaded."
    if as_json:
        print_json({"status": "success", **stopped})
    else:
        print_line(text)
