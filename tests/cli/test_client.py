"""The HTTP client of the commands, against whatever may answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mooring.cli.client import Client, RemoteError, ServerUnreachable, path_of
from mooring.cli.invocation import Invocation
from mooring.cli.server import connect, find_server, read_server_file
from mooring.errors import InvalidParameter, MooringError

Answer = Callable[[BaseHTTPRequestHandler], None]


class Web:
    """An HTTP server that answers every request with ``answer`` and remembers their headers."""

    def __init__(self) -> None:
        self.answer: Answer = send(b"{}")
        self.seen: list[tuple[str, dict[str, str]]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.close_connection = True
                web.answer(self)

            do_POST = do_GET  # noqa: N815 - the name that http.server calls

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


def send(body: bytes, status: int = 200, *, cut: bool = False) -> Answer:
    """``cut``: the connection breaks before the end that was promised."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body) + (10 if cut else 0)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def events(*data: object, done: bool = True) -> bytes:
    stream = "".join(f"data: {json.dumps(item)}\n\n" for item in data)
    return f": comment\n\n{stream}{'data: [DONE]' if done else ''}\n\n".encode()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    thread = threading.Thread(target=web.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    web.server.shutdown()
    thread.join()
    web.server.server_close()


def test_a_stream_ends_at_done(web: Web) -> None:
    web.answer = send(events({"n": 1}, {"n": 2}) + b"data: never\n\n")
    assert [*Client(web.url).events("/v1/x", {})] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_that_breaks_off_is_an_error_not_an_end(web: Web, cut: bool) -> None:
    web.answer = send(events({"n": 1}, done=False), cut=cut)
    with closing(Client(web.url).events("/v1/x", {})) as stream:
        assert next(stream) == {"n": 1}
        with pytest.raises(ServerUnreachable):
            next(stream)


def test_an_error_in_a_stream_is_raised_in_its_own_words(web: Web) -> None:
    web.answer = send(events({"error": {"message": "The worker died.", "code": "worker_failed"}}))
    with pytest.raises(RemoteError, match=r"The worker died\."):
        next(Client(web.url).events("/v1/x", {}))


def test_a_refusal_keeps_its_code_and_status(web: Web) -> None:
    web.answer = send(
        json.dumps({"error": {"message": "No model.", "code": "model_not_found"}}).encode(), 404
    )
    with pytest.raises(RemoteError) as caught:
        Client(web.url).get("/v1/models/x")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_a_refused_key_says_where_keys_come_from(web: Web) -> None:
    web.answer = send(b'{"error": {"message": "No key."}}', 401)
    with pytest.raises(RemoteError, match="MOORING_API_KEY"):
        Client(web.url).get("/v1/models")


@pytest.mark.parametrize("answer", [send(b"<html>", 500), send(b"<html>"), send(b'{"error": "x"}', 400)])
def test_another_kind_of_server_is_told_in_words(web: Web, answer: Answer) -> None:
    web.answer = answer
    with pytest.raises(MooringError, match="does not speak like a Mooring server"):
        Client(web.url).get("/admin/v1/status")
    assert not Client(web.url).is_alive()


def test_a_closed_port_is_unreachable(web: Web) -> None:
    web.server.server_close()
    with pytest.raises(ServerUnreachable, match="mooring serve"):
        Client(web.url).get("/health")


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port"])
def test_a_wrong_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(InvalidParameter):
        Client(url)


def test_a_prefix_and_names_with_slashes_reach_the_server_whole(web: Web) -> None:
    Client(f"{web.url}/llm/").get(path_of("v1", "models", "ns/m:tag"))
    assert web.seen[0][0] == "/llm/v1/models/ns%2Fm%3Atag"


def invocation(home: Path, url: str | None = None) -> Invocation:
    made = Invocation()
    made.home, made.url = home, url
    return made


def write_server_file(home: Path, url: str) -> None:
    (home / "server.json").write_text(json.dumps({"url": url, "pid": 1, "token": "local-token"}))


def test_the_local_token_goes_to_no_other_server(web: Web, tmp_path: Path) -> None:
    write_server_file(tmp_path, "http://127.0.0.1:1")
    connection = connect(invocation(tmp_path, web.url))
    connection.client.get("/x")
    assert "authorization" not in web.seen[-1][1]
    assert not connection.is_local


def test_the_home_folders_server_is_found_with_its_token(web: Web, tmp_path: Path) -> None:
    web.answer = send(b'{"status": "ok"}')
    write_server_file(tmp_path, web.url)
    connection = connect(invocation(tmp_path))
    assert connection.is_local
    assert web.seen[-1][1]["authorization"] == "Bearer local-token"


def test_the_variables_name_server_and_key(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOORING_URL", web.url)
    monkeypatch.setenv("MOORING_API_KEY", "sk-mrg-mine")
    connect(invocation(tmp_path)).client.get("/x")
    assert web.seen[-1][1]["authorization"] == "Bearer sk-mrg-mine"


def test_a_file_left_by_a_dead_server_is_not_believed(tmp_path: Path) -> None:
    write_server_file(tmp_path, "http://127.0.0.1:1")
    assert find_server(invocation(tmp_path)) is None
    with pytest.raises(ServerUnreachable, match="mooring serve"):
        connect(invocation(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}'])
def test_a_half_written_server_file_is_no_server(tmp_path: Path, content: str) -> None:
    (tmp_path / "server.json").write_text(content)
    assert read_server_file(tmp_path / "server.json") is None
