"""``mooring rm``."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import format_bytes, print_json, print_line
from mooring.errors import InvalidParameter


def register(app: typer.Typer) -> None:
    app.command("rm")(rm)


def rm(
    ctx: typer.Context,
    models: Annotated[
        list[str] | None, typer.Argument(help="Models of the store.", show_default=False)
    ] = None,
    leftovers: Annotated[
        bool,
        typer.Option("--leftovers", help="Also what crashes and pulls stopped over a week ago left behind."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove models from the store.

    Files that other models share stay. Files used by reference are not touched.
    """
    from mooring.cli.models import find_model

    if not models and not leftovers:
        raise InvalidParameter("MODEL", "name the models to remove; `mooring list` shows them")
    store = invocation_of(ctx).store()
    found = [find_model(store, model).name for model in models or []]
    removed = [(name.short, store.remove(name)) for name in dict.fromkeys(found)]
    if leftovers:
        removed.append(("leftovers", store.prune()))
    if as_json:
        print_json([{"name": name, "freed_bytes": freed} for name, freed in removed])
        return
    for name, freed in removed:
        print_line(f"{name}: removed, {format_bytes(freed)} freed.")
