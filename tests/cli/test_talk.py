"""The chat of ``mooring run`` without a terminal and without a server."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mooring.cli.repl.backend import ModelCard, Piece, Request
from mooring.cli.repl.images import split_images
from mooring.cli.repl.session import Talk, require_talker
from mooring.cli.repl.slash import is_command, run_command
from mooring.cli.repl.terminal import chat, is_open, unquote, write_answer
from mooring.errors import InvalidParameter, ModelNotFound, UnsupportedCapability, WorkerFailed

CARD = ModelCard(name="tiny:latest", capabilities=frozenset({"chat", "completion"}), system="Be kind.")
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


class Scripted:
    """A backend that answers from a list; an exception in it is raised."""

    def __init__(self, *answers: list[Piece | BaseException]) -> None:
        self.answers = [*answers]
        self.requests: list[Request] = []
        self.closed = 0

    def answer(self, request: Request) -> Generator[Piece, None, None]:
        self.requests.append(request)
        try:
            for piece in self.answers.pop(0) if self.answers else [Piece(text="ok")]:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.closed += 1

    def load(self, model: str) -> ModelCard:
        if model == "none":
            raise ModelNotFound(model)
        return replace(CARD, name=model)


def talk_with(backend: Scripted, **fields: Any) -> Talk:
    return Talk(**{"backend": backend, "card": CARD, **fields})


def ask(talk: Talk, text: str) -> str:
    return "".join(piece.text for piece in talk.ask(text))


def lines(*given: str | type[BaseException]) -> Any:
    rest: Iterator[str | type[BaseException]] = iter(given)

    def read() -> str:
        line = next(rest, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return read


def test_the_conversation_goes_along_with_each_question() -> None:
    backend = Scripted([Piece(text="Hel"), Piece(text="lo")], [Piece(text="Yes")])
    talk = talk_with(backend)
    assert ask(talk, "Hi") == "Hello"
    ask(talk, "Sure?")
    assert [message["content"] for message in backend.requests[1].body["messages"]] == [
        "Hi",
        "Hello",
        "Sure?",
    ]


def test_a_stopped_answer_is_kept_and_its_connection_closed() -> None:
    backend = Scripted([Piece(text="One"), Piece(text=" two")])
    talk = talk_with(backend)
    with closing(talk.ask("Count")) as pieces:
        next(pieces)
    assert backend.closed == 1
    assert talk.messages[-1] == {"role": "assistant", "content": "One"}


def test_a_question_without_an_answer_is_forgotten() -> None:
    talk = talk_with(Scripted([WorkerFailed("gone")]))
    with pytest.raises(WorkerFailed):
        ask(talk, "Hi")
    assert talk.messages == []


def test_a_base_model_is_given_the_text_alone() -> None:
    backend = Scripted()
    ask(talk_with(backend, card=ModelCard(name="base", capabilities=frozenset({"completion"}))), "Once upon")
    assert backend.requests[0].body == {"prompt": "Once upon"}


def test_an_embedding_model_is_refused_with_what_it_can_do() -> None:
    with pytest.raises(UnsupportedCapability, match="/v1/embeddings"):
        require_talker(ModelCard(name="mini", capabilities=frozenset({"embedding"})))


def test_what_was_set_goes_along_and_the_models_own_is_left_to_the_server() -> None:
    backend = Scripted()
    talk = talk_with(backend, card=replace(CARD, parameters={"temperature": 0.1}))
    run_command(talk, "/set parameter num_predict 9")
    ask(talk, "Hi")
    body = backend.requests[0].body
    assert body == {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    assert "0.1" in run_command(talk, "/show parameters").text


def test_set_system_format_and_context_change_the_next_request() -> None:
    backend = Scripted()
    talk = talk_with(backend)
    run_command(talk, '/set system """Be\nbrief."""')
    run_command(talk, "/set format json")
    run_command(talk, "/set parameter num_ctx 1024")
    ask(talk, "Hi")
    request = backend.requests[0]
    assert request.body["messages"][0]["content"] == "Be\nbrief."
    assert request.body["response_format"] == {"type": "json_object"}
    assert request.context == 1024


def test_set_schema_takes_a_file_and_names_a_bad_one(tmp_path: Path) -> None:
    talk = talk_with(Scripted())
    schema = tmp_path / "city.json"
    schema.write_text('{"type": "object"}')
    run_command(talk, f"/set schema {schema}")
    assert talk.response_format is not None
    assert talk.response_format["json_schema"]["schema"] == {"type": "object"}
    schema.write_text("{")
    with pytest.raises(InvalidParameter, match="not JSON"):
        run_command(talk, f"/set schema {schema}")


@pytest.mark.parametrize(
    "line", ["/sett", "/set sistem x", "/set parameter temp 1", "/set parameter top_k x", "/show x"]
)
def test_a_wrong_command_says_what_is_right(line: str) -> None:
    with pytest.raises(InvalidParameter, match=r"did you mean|write for example|use one of"):
        run_command(talk_with(Scripted()), line)


def test_show_tells_what_was_set() -> None:
    talk = talk_with(Scripted())
    talk.set_parameter("seed", "7")
    assert "7" in run_command(talk, "/show parameters").text
    assert run_command(talk, "/show system").text == "Be kind."
    assert "tiny:latest" in run_command(talk, "/show").text
    assert "no chat template" in run_command(talk, "/show template").text


def test_clear_and_load() -> None:
    talk = talk_with(Scripted())
    ask(talk, "Hi")
    run_command(talk, "/clear")
    assert talk.messages == []
    run_command(talk, "/load other:latest")
    assert talk.card.name == "other:latest"


def test_a_path_at_the_start_is_no_command() -> None:
    assert is_command("/bye")
    assert not is_command("/etc/hosts is what?")
    assert not is_command("say /bye")


def test_the_chat_survives_errors_and_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    backend = Scripted(
        [WorkerFailed("The worker died; ask again.")], [Piece(text="par"), KeyboardInterrupt()]
    )
    talk = talk_with(backend)
    chat(talk, lines("Hi", KeyboardInterrupt, "Go", "/load none", "", "Still there?"))
    output = capsys.readouterr()
    assert "The worker died" in output.err
    assert "none" in output.err
    assert output.out == "\npar\nok\n"
    assert [message["content"] for message in talk.messages] == ["Go", "par", "Still there?", "ok"]


def test_bye_leaves_and_verbose_shows_figures(capsys: pytest.CaptureFixture[str]) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    talk = talk_with(Scripted([Piece(text="a"), Piece(text="b"), Piece(usage=usage, finish_reason="length")]))
    chat(talk, lines("/set verbose", "Hi", "/bye", "never"))
    output = capsys.readouterr()
    assert "2 tokens" in output.err
    assert "max_tokens" in output.err
    assert len(talk.messages) == 2


def test_messages_of_several_lines() -> None:
    assert is_open('"""one')
    assert not is_open('"""one\ntwo"""')
    assert is_open('/set system """one')
    assert not is_open('what does """ mean')
    assert unquote('"""\none\ntwo\n"""') == "one\ntwo"


def test_reasoning_does_not_mix_with_a_piped_answer(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    pieces = [Piece(reasoning="hm"), Piece(reasoning=", so"), Piece(text="42")]
    assert write_answer(iter(pieces), out) == "42"
    assert out.getvalue() == "42\n"
    assert "hm, so" in capsys.readouterr().err


def test_images_are_attached_where_the_model_can_see(tmp_path: Path) -> None:
    image = tmp_path / "a cat.png"
    image.write_bytes(PNG)
    backend = Scripted()
    talk = talk_with(backend, card=replace(CARD, capabilities=frozenset({"chat", "vision"})))
    ask(talk, f"What is in '{image}'?")
    text, picture = backend.requests[0].body["messages"][-1]["content"]
    assert "cat.png" not in text["text"]
    assert base64.b64decode(picture["image_url"]["url"].partition(",")[2]) == PNG


def test_images_are_refused_by_name_where_it_cannot(tmp_path: Path) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(PNG)
    backend = Scripted()
    with pytest.raises(UnsupportedCapability, match=r"cat\.png"):
        ask(talk_with(backend), f"What is in {image}?")
    assert backend.requests == []


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("no")
    seeing = talk_with(Scripted(), card=replace(CARD, capabilities=frozenset({"chat", "vision"})))
    with pytest.raises(InvalidParameter, match="no PNG"):
        ask(seeing, f"Look: {tmp_path / 'cat.png'}")


def test_names_that_are_no_files_stay_text(tmp_path: Path) -> None:
    escaped = tmp_path / "my cat.jpg"
    escaped.write_bytes(PNG)
    assert split_images("Write logo.png please") == ("Write logo.png please", [])
    written = str(escaped).replace(" ", "\\ ")
    assert split_images(f"{written} what?") == ("what?", [escaped])
