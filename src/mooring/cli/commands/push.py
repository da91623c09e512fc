"""``mooring push``."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_json, print_line
from mooring.cli.progress import show_progress


def register(app: typer.Typer) -> None:
    app.command("push")(push)


def push(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A stored model named HOST/NAMESPACE/MODEL:TAG (see `mooring cp`).")
    ],
    as_json: JsonOption = False,
) -> None:
    """Upload a model to a registry.

    The registry is the host in the model's name; its login is sources.registry_tokens in mooring.yaml.
    """
    from mooring.cli.models import find_model
    from mooring.egress import Egress
    from mooring.modelstore.push import push as push_model

    invocation = invocation_of(ctx)
    settings, store = invocation.settings(), invocation.store()
    found = find_model(store, model)

    async def upload() -> None:
        async with Egress(settings) as egress:
            await push_model(store, egress, settings, found.name.short, progress=progress)

    with show_progress(as_json=as_json) as progress:
        asyncio.run(upload())
    if as_json:
        print_json({"status": "success", "model": found.name.short})
    else:
        print_line(f"{found.name.short} is uploaded.")
