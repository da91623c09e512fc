"""``mooring serve``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mooring.cli.invocation import Invocation, invocation_of
from mooring.cli.progress import show_progress
from mooring.errors import Conflict, InvalidParameter

if TYPE_CHECKING:
    from mooring.config import DeploymentSettings, Settings


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models to keep loaded, pulled if absent. Others load on first use.", show_default=False
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one. [default: 8000]")
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Answer everybody, also on other addresses than loopback.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Let no packet leave this host.")] = False,
    engine: Annotated[
        str | None, typer.Option(help="What runs the MODELs. [default: by their format]")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, max=64, help="Workers for each MODEL.")] = 1,
    context: Annotated[
        int | None, typer.Option("--ctx", min=16, help="Tokens of context per slot of MODELs.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=256, help="Sequences at once per worker of MODELs.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per worker of MODELs.")] = None,
    gpu_layers: Annotated[int | None, typer.Option(min=0, help="Layers of MODELs on the GPU.")] = None,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            help="How long idle models stay loaded: 5m, 0, -1 (for ever). MODELs named here stay anyway."
        ),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="What models may use together, as 8GiB. [default: what is free]")
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None, typer.Option(help="How much to log on stderr.")
    ] = None,
    log_format: Annotated[
        Literal["console", "json"] | None, typer.Option(help="Logs for people, or one JSON object a line.")
    ] = None,
    stop_with_parent: Annotated[bool, typer.Option("--stop-with-parent", hidden=True)] = False,
) -> None:
    """Serve models behind one OpenAI-compatible API.

    Chat in a browser at the address it prints. Options are also settings of mooring.yaml and MOORING_* variables.
    """
    invocation = invocation_of(ctx)
    settings = invocation.settings(
        host=host,
        port=port,
        auth=False if no_auth else None,
        offline=offline or None,
        keep_alive=keep_alive,
        memory_limit=memory_limit,
        log_level=log_level,
        log_format=log_format,
    )
    wish = {
        "engine": engine,
        "context": context,
        "slots": slots,
        "threads": threads,
        "gpu_layers": gpu_layers,
    }
    given = {name: value for name, value in wish.items() if value is not None}
    if not models and (given or replicas > 1):
        raise InvalidParameter("MODEL", "name the models that --ctx, --slots, --replicas … are meant for")
    deployments = _deployments(invocation, settings, models or [], replicas, given)
    if stop_with_parent:
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
    raise typer.Exit(_serve(settings, deployments))


def _deployments(
    invocation: Invocation, settings: Settings, models: list[str], replicas: int, wish: dict[str, Any]
) -> dict[str, DeploymentSettings]:
    from mooring.config import DeploymentSettings

    if not models:
        return {}
    from mooring.cli.models import find_or_fetch

    deployment = DeploymentSettings(replicas_min=replicas, replicas_max=replicas, **wish)
    with show_progress(as_json=False) as progress:
        names = [find_or_fetch(invocation, settings, model, progress).name.short for model in models]
    return dict.fromkeys(names, deployment)


def _serve(settings: Settings, deployments: dict[str, DeploymentSettings]) -> int:
    from mooring.api.server import serve as serve_http

    try:
        return serve_http(settings, deployments)
    except Conflict as error:
        if error.code == "port_busy":
            raise _port_busy(settings, error) from error
        raise


def _port_busy(settings: Settings, error: Conflict) -> Conflict:
    """The same refusal, with what can be known of who has the port."""
    from mooring.cli.client import Client
    from mooring.cli.ports import owner
    from mooring.cli.server import read_server_file

    running = read_server_file(settings.server_file)
    where = f"{settings.host}:{settings.port}"
    if running is not None and running.url.endswith(f":{settings.port}") and Client(running.url).is_alive():
        return Conflict(
            f"A Mooring server of {settings.home} is already running at {running.url} (process {running.pid}). "
            f"Use it, stop it with `mooring stop --server`, or choose another port with --port.",
            code="port_busy",
        )
    if who := owner(settings.port):
        return Conflict(
            f"{where} is taken by {who}. Choose another port with --port (0 takes a free one), or end that program.",
            code="port_busy",
        )
    return error


def _stop_at_end_of_stdin() -> None:
    """Stop this process as SIGTERM would when the parent closes our stdin, or dies."""
    while os.read(0, 4096):
        pass
    if sys.platform == "win32":
        import _thread

        _thread.interrupt_main(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
