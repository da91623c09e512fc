"""What the options before the command said, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mooring.config import Settings
    from mooring.modelstore.store import ModelStore


class Invocation:
    """One call of ``mooring``; every command finds it in its context.

    ``json`` is set by the command's own ``--json``: results and errors then go to stdout as JSON.
    """

    def __init__(self) -> None:
        self.home: Path | None = None
        self.url: str | None = None
        self.json = False

    def settings(self, **overrides: Any) -> Settings:
        """The settings, ``overrides`` being the command's own options (None: not given).

        Raises ConfigError.
        """
        from mooring.config import load_settings

        return load_settings(home=self.home, **overrides)

    def store(self) -> ModelStore:
        from mooring.modelstore.store import ModelStore

        return ModelStore(self.settings().store_dir)


def invocation_of(ctx: typer.Context) -> Invocation:
    """The one that the group of commands put into its context."""
    return ctx.ensure_object(Invocation)


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    invocation_of(ctx).json = value
    return value


JsonOption = Annotated[
    bool,
    typer.Option(
        "--json", callback=_remember_json, is_eager=True, help="Answer in JSON on stdout, for scripts."
    ),
]
