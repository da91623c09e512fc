"""``mooring stop``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_json, print_line
from mooring.errors import Conflict, InvalidParameter, MooringError

if TYPE_CHECKING:
    from mooring.cli.client import Client


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

    Requests under way are finished first. A model that `mooring serve` was told to keep loaded is not kept any more;
    the next request for it loads it again.
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
        name, text = _unload(connect(invocation).client, model)
        stopped = {"model": name}
    if as_json:
        print_json({"status": "success", **stopped})
    else:
        print_line(text)


def _unload(client: Client, model: str) -> tuple[str, str]:
    """The model's full name, and what was done in words."""
    from mooring.cli.client import path_of

    name = client.get(path_of("v1", "models", model))["id"]
    wishes = {wish["model"]: wish for wish in client.get("/admin/v1/deployments")["data"]}
    if not wishes.get(name, {}).get("replicas_min"):
        client.post("/admin/v1/models/unload", {"model": name})
        return name, f"{name} is unloaded."
    try:
        client.delete(path_of("admin", "v1", "deployments", name))
    except MooringError as error:
        if error.status != 404:
            raise
        raise Conflict(
            f"mooring.yaml keeps '{name}' loaded (deployments: replicas_min). Change that and start the server again."
        ) from error
    return name, f"{name} is unloaded, and no longer kept loaded."
