"""``mooring logs``."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from mooring.cli.invocation import invocation_of
from mooring.cli.output import print_line


def register(app: typer.Typer) -> None:
    app.command("logs")(logs)


def logs(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A model, or with --worker the id of a worker (see `mooring ps`).")
    ],
    worker: Annotated[bool, typer.Option("--worker", help="MODEL is the id of one worker.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 200,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")
    ] = False,
) -> None:
    """Show the log of a model's worker."""
    import sys

    from mooring.cli.client import path_of
    from mooring.cli.server import connect

    kind = "workers" if worker else "models"
    query = f"?lines={lines}" + ("&follow=true" if follow else "")
    client = connect(invocation_of(ctx)).client
    with closing(client.text(path_of("admin", "v1", kind, model, "logs") + query)) as text:
        for line in text:
            print_line(line)
            sys.stdout.flush()
