"""``mooring import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_json, print_line
from mooring.cli.progress import show_progress


def register(app: typer.Typer) -> None:
    app.command("import")(import_models)


def import_models(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="A file that `mooring export` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Read models from an exported file.

    Everything is verified before a model appears; a damaged file leaves the store as it was.
    """
    from mooring.cli.models import model_json, next_step
    from mooring.modelstore.bundle import import_

    with show_progress(as_json=as_json) as progress:
        models = import_(invocation_of(ctx).store(), bundle, progress)
    if as_json:
        print_json({"status": "success", "models": [model_json(model) for model in models]})
        return
    for model in models:
        print_line(f"{model.name.short} is ready. {next_step(model)}")
