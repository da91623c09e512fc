"""``mooring list``."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.invocation import Invocation, JsonOption, invocation_of
from mooring.cli.output import (
    error_line,
    format_age,
    format_bytes,
    format_count,
    print_json,
    print_line,
    print_table,
)


def register(app: typer.Typer) -> None:
    app.command("list")(list_models)


def list_models(
    ctx: typer.Context,
    catalogue: Annotated[
        bool,
        typer.Option("--catalogue", help="The models that `mooring pull` knows by a short name instead."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models in the store, or those that can be pulled."""
    if catalogue:
        _list_catalogue(as_json)
    else:
        _list_store(invocation_of(ctx), as_json)


def _list_store(invocation: Invocation, as_json: bool) -> None:
    from mooring.cli.models import model_json

    store = invocation.store()
    models = store.list()
    for problem in store.problems:
        error_line(f"Warning: {problem} `mooring doctor` tells more.")
    if as_json:
        print_json([model_json(model) for model in models])
        return
    if not models:
        print_line(
            "No models yet. `mooring pull smollm2` fetches one; `mooring list --catalogue` shows others."
        )
        return
    columns = ("NAME", "SIZE", "PARAMETERS", "QUANT", "CONTEXT", "CAPABILITIES", "MODIFIED")
    rows = [
        (
            model.name.short,
            format_bytes(model.size),
            format_count(model.info.parameters),
            model.info.quantization,
            str(model.info.context_length or ""),
            ",".join(sorted(model.capabilities)),
            format_age(model.modified_at),
        )
        for model in models
    ]
    print_table(columns, rows)


def _list_catalogue(as_json: bool) -> None:
    from mooring.modelstore.catalogue import Catalogue

    entries = Catalogue.load().entries
    if as_json:
        fields = (
            {
                "name": entry.name.short,
                "size": entry.size,
                "capabilities": sorted(entry.capabilities),
                "licence": entry.licence,
                "sources": list(entry.sources),
                "about": entry.about,
            }
            for entry in entries
        )
        print_json([*fields])
        return
    columns = ("NAME", "DOWNLOAD", "CAPABILITIES", "LICENCE", "ABOUT")
    rows = [
        (
            entry.name.short + (" *" if entry.default else ""),
            format_bytes(entry.size),
            ",".join(sorted(entry.capabilities)),
            entry.licence,
            entry.about,
        )
        for entry in entries
    ]
    print_table(columns, rows)
    print_line("* what the name without a tag means. Others: mooring pull hf:ORG/REPO[:QUANT]")
