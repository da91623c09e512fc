"""``mooring show``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_fields, print_json, print_line

if TYPE_CHECKING:
    from mooring.modelstore.model import Model


def register(app: typer.Typer) -> None:
    app.command("show")(show)


def show(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model of the store.")],
    modelfile: Annotated[
        bool, typer.Option("--modelfile", help="Only the Modelfile that makes it again.")
    ] = False,
    template: Annotated[bool, typer.Option("--template", help="Only the chat template.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Only the system message.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Only the parameters.")] = False,
    license_: Annotated[bool, typer.Option("--license", help="Only the licence.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what is known of a model."""
    from mooring.cli.models import find_model, model_json

    found = find_model(invocation_of(ctx).store(), model)
    if as_json:
        print_json({**model_json(found), **_texts(found)})
        return
    views = {
        "modelfile": modelfile,
        "template": template,
        "system": system,
        "parameters": parameters,
        "license": license_,
    }
    wanted = [view for view, asked in views.items() if asked]
    for view in wanted:
        print_line(_view(found, view))
    if not wanted:
        _show_all(found)


def _texts(model: Model) -> dict[str, object]:
    texts = {view: _view(model, view) for view in ("modelfile", "template", "system", "license")}
    return {**texts, "parameters": model.parameters, "messages": model.messages}


def _view(model: Model, view: str) -> str:
    if view == "modelfile":
        from mooring.modelstore.create import render_modelfile

        return render_modelfile(model)
    if view == "template":
        return model.info.chat_template or model.template
    if view == "parameters":
        return "\n".join(f"{name} {json.dumps(value)}" for name, value in model.parameters.items())
    return model.system if view == "system" else model.license


def _show_all(model: Model) -> None:
    from mooring.cli.models import model_fields

    print_line(model.name.short)
    print_fields(model_fields(model))
    if model.parameters:
        print_line("Parameters")
        print_fields([(name, json.dumps(value)) for name, value in model.parameters.items()])
    if model.system:
        print_line("System message")
        print_line(f"  {model.system}")
    if model.license:
        print_line("Licence")
        print_line(f"  {model.license.strip().splitlines()[0]} (all of it: --license)")
