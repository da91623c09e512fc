"""``mooring version``."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

from mooring import __version__
from mooring.cli.invocation import JsonOption
from mooring.cli.output import print_fields, print_json, print_line

_ENGINES = {"llamacpp": "xllamacpp"}


def register(app: typer.Typer) -> None:
    app.command("version")(version)


def version(as_json: JsonOption = False) -> None:
    """Show the versions of Mooring and its engines."""
    engines = {engine: _version_of(package) for engine, package in _ENGINES.items()}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    if as_json:
        print_json(
            {
                "mooring": __version__,
                "python": platform.python_version(),
                "system": system,
                "engines": engines,
            }
        )
        return
    print_line(f"mooring {__version__}")
    print_fields(
        [
            ("python", platform.python_version()),
            ("system", system),
            *(
                (engine, f"{_ENGINES[engine]} {found or 'not installed'}")
                for engine, found in engines.items()
            ),
        ]
    )


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
