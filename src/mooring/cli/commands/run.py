"""``mooring run``."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mooring.cli.invocation import Invocation, JsonOption, invocation_of
from mooring.cli.output import error_line, print_json
from mooring.errors import InvalidParameter

if TYPE_CHECKING:
    from mooring.cli.repl.live import LiveBackend
    from mooring.cli.repl.session import Talk
    from mooring.cli.server import Connection


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A model of the store or catalogue, or a source; pulled if absent.")
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="Answer this once and exit; text from a pipe is added.", show_default=False),
    ] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    format_: Annotated[Literal["json"] | None, typer.Option("--format", help="Answers must be JSON.")] = None,
    schema: Annotated[
        Path | None, typer.Option(help="Answers must fit the JSON schema in this file.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A sampling parameter, as temperature=0.7; repeatable."
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option("--ctx", min=16, help="Tokens of context to load with.")
    ] = None,
    keep_alive: Annotated[
        str | None, typer.Option(help="How long the model stays loaded afterwards: 5m, 0, -1 (for ever).")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show tokens and speed after each answer.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Let no packet leave this host.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Chat with a model in the terminal, or answer one prompt.

    Uses the server that runs for the home folder or the one of --url; else one is started for this session.
    """
    from mooring.cli.repl.live import LiveBackend

    invocation = invocation_of(ctx)
    question = _question(prompt or [])
    if question is None and as_json:
        raise InvalidParameter("--json", "needs a prompt, as an argument or from a pipe")
    seconds = _seconds(keep_alive)
    with _server(invocation, offline) as connection:
        backend = LiveBackend(invocation, connection, offline=offline, context=context, keep_alive=seconds)
        talk = _talk(
            backend, model, system=system, format_=format_, schema=schema, parameters=parameter or []
        )
        talk.context, talk.keep_alive, talk.verbose = context, seconds, verbose
        backend.load_prepared(talk.card)
        if question is None:
            _chat(invocation, talk)
        elif as_json:
            _answer_json(talk, question)
        else:
            _answer(talk, question)


@contextmanager
def _server(invocation: Invocation, offline: bool) -> Iterator[Connection]:
    from mooring.cli.server import find_server, session_server

    found = find_server(invocation)
    if found is not None:
        yield found
        return
    with session_server(invocation, offline=offline) as started:
        yield started


def _talk(
    backend: LiveBackend,
    model: str,
    *,
    system: str | None,
    format_: str | None,
    schema: Path | None,
    parameters: list[str],
) -> Talk:
    from mooring.cli.repl.session import Talk

    if format_ and schema:
        raise InvalidParameter("--format", "give --format json or --schema, not both")
    talk = Talk(backend=backend, card=backend.prepare(model), system=system or "")
    for setting in parameters:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InvalidParameter("--set", f"'{setting}': write NAME=VALUE, as in temperature=0.7")
        talk.set_parameter(name, value)
    if format_:
        talk.response_format = {"type": "json_object"}
    if schema is not None:
        talk.set_schema(schema)
    return talk


def _chat(invocation: Invocation, talk: Talk) -> None:
    from mooring.cli.repl.terminal import chat, prompt_reader

    error_line(f"{talk.card.name} is ready. /? for help, /bye or Ctrl-D to leave.")
    chat(talk, prompt_reader(invocation.settings().home / "history"))


def _answer(talk: Talk, question: str) -> None:
    from mooring.cli.repl.terminal import show_stats, write_answer

    with closing(talk.ask(question)) as pieces:
        write_answer(pieces)
    if talk.verbose:
        show_stats(talk)


def _answer_json(talk: Talk, question: str) -> None:
    text, reasoning = "", ""
    with closing(talk.ask(question)) as pieces:
        for piece in pieces:
            text += piece.text
            reasoning += piece.reasoning
    answer = {
        "model": talk.card.name,
        "content": text,
        "finish_reason": talk.finish_reason,
        "usage": talk.usage,
    }
    print_json({**answer, **({"reasoning": reasoning} if reasoning else {})})


def _question(words: list[str]) -> str | None:
    """The prompt of the arguments with what is piped in; None for a chat. Raises InvalidParameter."""
    given = " ".join(words)
    if sys.stdin.isatty():
        if not given and not sys.stdout.isatty():
            raise InvalidParameter("PROMPT", "is needed when the output is not a terminal")
        return given or None
    piped = sys.stdin.read().strip() if not given or _is_pipe_or_file() else ""
    question = "\n\n".join(part for part in (given, piped) if part)
    if not question:
        raise InvalidParameter("PROMPT", "is empty; give one as an argument or through the pipe")
    return question


def _is_pipe_or_file() -> bool:
    """Whether stdin was piped in on purpose; a service's or ssh's idle stdin would be waited for in vain."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _seconds(text: str | None) -> float | None:
    from mooring.config import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise InvalidParameter("--keep-alive", str(error)) from error
