"""The lazy group of commands: a command's module is imported when it is called, not before."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mooring import __version__
from mooring.cli.exit_codes import EXPLAINED
from mooring.cli.invocation import Invocation, invocation_of
from mooring.cli.table import SECTIONS, Entry

_GLOBAL_OPTIONS = ("--home", "--url")
_COMMAND_EPILOG = "Every command also takes --home DIR and --url URL; see `mooring --help`."


class LazyCommands(MutableMapping[str, Any]):
    """Name → command, imported on first use."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for section in SECTIONS for entry in section.entries}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = _load(self._entries[name])
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _load(entry: Entry) -> Any:
    module = importlib.import_module(entry.module)
    app = typer.Typer(
        name=entry.name,
        help=entry.help,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
    )
    module.register(app)
    command = typer.main.get_command(app)
    command.epilog = _COMMAND_EPILOG
    return command


class LazyGroup(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LazyCommands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """From the table alone: listing the commands imports none of them."""
        for section in SECTIONS:
            with formatter.section(section.title):
                formatter.write_dl([(entry.name, entry.help) for entry in section.entries])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in EXPLAINED])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = Invocation()
        return super().parse_args(ctx, hoist_global_options(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; whatever it raises becomes one clear line and an exit code."""
        from mooring.cli.failures import reported

        with reported(ctx.find_object(Invocation)):
            return super().invoke(ctx)


def hoist_global_options(args: list[str]) -> list[str]:
    """Move ``--home X`` and ``--url X`` to the front, so that they may stand before or after the command."""
    front: list[str] = []
    rest: list[str] = []
    tokens = iter(args)
    for token in tokens:
        if token == "--":  # noqa: S105 - the end of the options
            return [*front, *rest, token, *tokens]
        if token in _GLOBAL_OPTIONS:
            front += [token, *([value] if (value := next(tokens, None)) is not None else [])]
        elif token.startswith(tuple(f"{option}=" for option in _GLOBAL_OPTIONS)):
            front.append(token)
        else:
            rest.append(token)
    return front + rest


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mooring {__version__}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            help="The folder of models, state and logs. [default: MOORING_HOME, else ~/.mooring]",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="The server to speak to. [default: MOORING_URL, else the one running for the home folder]",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Take a language model from a file to a governed service: pull it, chat with it, serve it.

    `mooring run smollm2` chats; `mooring serve` opens http://127.0.0.1:8000 for OpenAI clients.
    """
    invocation = invocation_of(ctx)
    invocation.home = home
    invocation.url = url


def build_app() -> typer.Typer:
    """The whole command line as one Typer app."""
    return typer.Typer(
        name="mooring",
        cls=LazyGroup,
        callback=_root,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
    )
