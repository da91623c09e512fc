"""The prompt of the chat: history, several lines, Ctrl-C that stops an answer and not the session."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TextIO

from mooring.cli.output import error_line, print_line
from mooring.cli.repl.backend import Piece
from mooring.cli.repl.session import Talk
from mooring.cli.repl.slash import is_command, run_command
from mooring.errors import MooringError

QUOTES = '"""'
_DIM, _RESET = "\x1b[2m", "\x1b[0m"

ReadLine = Callable[[], str]


def chat(talk: Talk, read: ReadLine) -> None:
    """Talk until the user leaves. ``read`` returns one message, or raises EOFError (leave), KeyboardInterrupt."""
    while True:
        try:
            line = read()
        except KeyboardInterrupt:
            error_line("(Ctrl-D or /bye leaves.)")
            continue
        except EOFError:
            return
        try:
            if not _turn(talk, line):
                return
        except MooringError as error:
            error_line(f"Error: {error.message}")
        except KeyboardInterrupt:
            error_line("\n(Stopped.)")


def _turn(talk: Talk, line: str) -> bool:
    """One line of the user; False ends the chat."""
    if not line.strip():
        return True
    if is_command(line):
        reply = run_command(talk, line)
        if reply.text:
            print_line(reply.text)
        return not reply.leave
    with closing(talk.ask(unquote(line))) as pieces:
        write_answer(pieces)
    if talk.finish_reason == "length":
        error_line(
            "(Cut: the limit of tokens was reached. /set parameter max_tokens N, or num_ctx N, raises it.)"
        )
    if talk.verbose:
        show_stats(talk)
    return True


def unquote(text: str) -> str:
    """A message without the triple quotes around it."""
    stripped = text.strip()
    if len(stripped) >= 2 * len(QUOTES) and stripped.startswith(QUOTES) and stripped.endswith(QUOTES):
        return stripped[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text


def is_open(text: str) -> bool:
    """Whether triple quotes, at the start or in a command such as ``/set system``, are not closed yet."""
    stripped = text.strip()
    return (stripped.startswith(QUOTES) or is_command(stripped)) and stripped.count(QUOTES) % 2 == 1


def write_answer(pieces: Iterator[Piece], out: TextIO | None = None) -> str:
    """Write an answer as it comes and return its text.

    Reasoning is written dimmed before the answer on a terminal, and to stderr where stdout is a pipe.
    """
    out = out or sys.stdout
    thinking, text = False, ""
    dim, reset = (_DIM, _RESET) if out.isatty() else ("", "")
    aside = out if out.isatty() else sys.stderr
    try:
        for piece in pieces:
            if piece.reasoning:
                aside.write(piece.reasoning if thinking else dim + piece.reasoning)
                aside.flush()
                thinking = True
            if piece.text:
                if thinking:
                    aside.write(f"{reset}\n\n")
                    thinking = False
                out.write(piece.text)
                out.flush()
                text += piece.text
    finally:
        if thinking:
            aside.write(reset)
        if not text.endswith("\n"):
            out.write("\n")
        out.flush()
    return text


def show_stats(talk: Talk) -> None:
    error_line("\n".join(f"  {name:<18} {value}" for name, value in talk.stats))


def prompt_reader(history: Path) -> ReadLine:
    """A reader on the terminal by prompt_toolkit; ``history`` is kept between sessions, for its owner only."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    history.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(history, os.O_CREAT | os.O_WRONLY, 0o600))
    keys = KeyBindings()

    @keys.add("enter")
    def _accept(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        key_bindings=keys,
        multiline=True,
        prompt_continuation=lambda width, _line, _wrapped: "... ".rjust(width),
    )
    return lambda: session.prompt(">>> ")
