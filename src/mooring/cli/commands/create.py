"""``mooring create``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mooring.cli.invocation import JsonOption, invocation_of
from mooring.cli.output import print_json, print_line
from mooring.cli.progress import show_progress
from mooring.errors import InvalidParameter


def register(app: typer.Typer) -> None:
    app.command("create")(create)


def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The new model's name.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The Modelfile; - reads it from stdin.")] = Path(
        "Modelfile"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make a model from a Modelfile.

    FROM names a stored model, a GGUF file or a folder of safetensors; PARAMETER, SYSTEM, ADAPTER, LICENSE and
    MESSAGE are as in Ollama. Paths are relative to the Modelfile.
    """
    from mooring.cli.models import model_json, next_step
    from mooring.modelstore.create import create as create_model

    text, folder = _read(file)
    with show_progress(as_json=as_json) as progress:
        model = create_model(invocation_of(ctx).store(), name, text, base_dir=folder, progress=progress)
    if as_json:
        print_json({"status": "success", "model": model_json(model)})
    else:
        print_line(f"{model.name.short} is ready. {next_step(model)}")


def _read(file: Path) -> tuple[str, Path]:
    """The Modelfile's text, and the folder that its paths are relative to."""
    if str(file) == "-":
        return sys.stdin.read(), Path.cwd()
    try:
        return file.read_text("utf-8"), file.parent
    except OSError as error:
        raise InvalidParameter(
            "--file", f"{file} cannot be read ({error.strerror}); name the Modelfile"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidParameter(
            "--file", f"{file} is not text; a GGUF file belongs behind FROM in it"
        ) from error
