"""``mooring cp``."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_json, print_line


def register(app: typer.Typer) -> None:
    app.command("cp")(cp)


def cp(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A model of the store.")],
    target: Annotated[str, typer.Argument(help="Its new name: [HOST/][NAMESPACE/]MODEL[:TAG].")],
    as_json: JsonOption = False,
) -> None:
    """Give a model a second name.

    Both names share their files, so this takes no room.
    """
    from mooring.cli.models import find_model, model_json

    store = invocation_of(ctx).store()
    copied = store.copy(find_model(store, source).name, target)
    if as_json:
        print_json(model_json(copied))
    else:
        print_line(f"{copied.name.short} is here.")
