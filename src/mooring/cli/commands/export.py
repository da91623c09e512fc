"""``mooring export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import format_bytes, print_json, print_line
from mooring.cli.progress import show_progress


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    ctx: typer.Context,
    models: Annotated[list[str], typer.Argument(help="Models of the store.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    as_json: JsonOption = False,
) -> None:
    """Write models into one file, for hosts without a network.

    The file names every part's SHA-256; `mooring import` checks them all. Models by reference are put in whole.
    """
    from mooring.cli.models import find_model
    from mooring.modelstore.bundle import export as export_models

    store = invocation_of(ctx).store()
    names = [find_model(store, model).name.short for model in models]
    with show_progress(as_json=as_json) as progress:
        export_models(store, names, output, progress)
    size = output.stat().st_size
    if as_json:
        print_json({"status": "success", "file": str(output), "size": size, "models": names})
    else:
        print_line(
            f"{output} holds {', '.join(names)} ({format_bytes(size)}). Elsewhere: mooring import {output.name}"
        )
