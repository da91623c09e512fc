"""The commands of the chat: ``/set``, ``/show``, ``/clear``, ``/load``, ``/?``, ``/bye``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from mooring.cli.repl.session import Talk
from mooring.errors import InvalidParameter

HELP = """\
  /set system TEXT          Say who the model is (nothing: the model's own)
  /set parameter NAME VALUE Sampling and context: temperature, top_p, top_k, min_p, seed, max_tokens, stop, num_ctx …
  /set format json | none   Answers must be JSON, or anything
  /set schema FILE          Answers must fit the JSON schema in FILE
  /set verbose | quiet      Show speed and token counts after answers, or not
  /show info | parameters | system | template | license
  /load MODEL               Go on with another model
  /clear                    Forget the conversation
  /? or /help               This help
  /bye                      Leave (as Ctrl-D)

  \"\"\"                       Begin and end a message of several lines; Alt-Enter adds a line
  Ctrl-C                    Stop the answer, or drop the line"""

_COMMANDS = ("/set", "/show", "/load", "/clear", "/help", "/?", "/bye", "/exit", "/quit")
_SETTINGS = ("system", "parameter", "format", "schema", "verbose", "quiet")
_VIEWS = ("info", "parameters", "system", "template", "license")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command has to say; ``leave`` ends the chat."""

    text: str = ""
    leave: bool = False


def is_command(line: str) -> bool:
    """Whether a line is for the chat, not for the model; ``/etc/hosts says`` is for the model."""
    word = line.split(maxsplit=1)[0] if line.strip() else ""
    return word.startswith("/") and "/" not in word[1:]


def run_command(talk: Talk, line: str) -> Reply:
    """Do what a line says. Raises MooringError, whose message is for the user."""
    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    if word in ("/bye", "/exit", "/quit"):
        return Reply(leave=True)
    if word in ("/?", "/help"):
        return Reply(HELP)
    if word == "/clear":
        talk.clear()
        return Reply("The conversation is forgotten.")
    if word == "/load":
        return _load(talk, rest)
    if word == "/set":
        return Reply(_set(talk, rest))
    if word == "/show":
        return Reply(_show(talk, rest or "info"))
    raise InvalidParameter(word, f"no such command{_near(word, _COMMANDS)}; /? lists them")


def _load(talk: Talk, model: str) -> Reply:
    if not model:
        raise InvalidParameter("/load", "name a model, as in /load smollm2")
    talk.load(model)
    return Reply(f"Now talking to {talk.card.name}.")


def _set(talk: Talk, rest: str) -> str:
    name, _, value = rest.partition(" ")
    value = _unquote(value.strip())
    if name == "system":
        talk.system = value
        return "System message set." if value else "System message removed."
    if name == "parameter":
        return _set_parameter(talk, value)
    if name == "format":
        return _set_format(talk, value)
    if name == "schema":
        talk.set_schema(Path(value).expanduser())
        return f"Answers must fit {value}."
    if name in ("verbose", "quiet"):
        talk.verbose = name == "verbose"
        return "Figures are shown after answers." if talk.verbose else "Figures are not shown."
    raise InvalidParameter(
        "/set", f"cannot set '{name}'{_near(name, _SETTINGS)}; use one of {', '.join(_SETTINGS)}"
    )


def _set_parameter(talk: Talk, text: str) -> str:
    name, _, value = text.partition(" ")
    if not value.strip():
        raise InvalidParameter(
            "/set parameter", "give a name and a value, as in /set parameter temperature 0.7"
        )
    talk.set_parameter(name, value.strip())
    return f"{name} set to {value.strip()}."


def _set_format(talk: Talk, value: str) -> str:
    if value == "json":
        talk.response_format = {"type": "json_object"}
        return "Answers must be JSON."
    if value in ("none", "text"):
        talk.response_format = None
        return "Answers may be anything."
    raise InvalidParameter("/set format", "use json or none; /set schema FILE takes a JSON schema")


def _show(talk: Talk, view: str) -> str:
    card = talk.card
    if view == "info":
        fields = [("model", card.name), ("capabilities", ", ".join(sorted(card.capabilities))), *card.fields]
        return _lines(fields)
    if view == "parameters":
        own = {f"{name} (model)": value for name, value in card.parameters.items()}
        set_here = {**talk.parameters, **({"context": talk.context} if talk.context else {})}
        return (
            _lines([(name, str(value)) for name, value in {**own, **set_here}.items()])
            or "No parameters set."
        )
    if view == "system":
        return talk.system or card.system or "No system message."
    if view == "template":
        return card.template or "This model has no chat template."
    if view == "license":
        return card.license or "The model's files name no licence."
    raise InvalidParameter(
        "/show", f"nothing called '{view}'{_near(view, _VIEWS)}; use one of {', '.join(_VIEWS)}"
    )


def _lines(fields: list[tuple[str, str]]) -> str:
    width = max((len(name) for name, _ in fields), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in fields)


def _unquote(text: str) -> str:
    for quotes in ('"""', '"'):
        if len(text) >= 2 * len(quotes) and text.startswith(quotes) and text.endswith(quotes):
            return text[len(quotes) : -len(quotes)].strip()
    return text


def _near(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
