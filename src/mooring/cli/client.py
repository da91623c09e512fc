"""HTTP to a Mooring server, by the standard library alone so that commands start at once.

It goes to loopback or to the address that the user named, never through a proxy. Errors come in OpenAI's shape,
``{"error": {"message", "type", "code", "param"}}``, and are raised as RemoteError.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from mooring import __version__
from mooring.errors import InvalidParameter, MooringError, Unavailable

_CONNECT_TIMEOUT = 5.0
_ANSWER_TIMEOUT = 60.0
_MAX_ERROR_BYTES = 256 * 1024


class ServerUnreachable(Unavailable):
    code = "server_unreachable"


class RemoteError(MooringError):
    """What a server answered instead of a result."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        hint = " The command line reads its key from MOORING_API_KEY." if status == 401 else ""
        super().__init__(
            str(error.get("message") or f"The server answered {status}.") + hint,
            code=str(error.get("code") or "server_error"),
            param=error.get("param"),
        )
        self.status = status
        self.kind = str(error.get("type") or "server_error")


class Client:
    """One server. A connection is opened for each request: commands make few."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """Raises InvalidParameter for a URL that is none."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or (port is None and ":" in parts.netloc[-6:])
        ):
            raise InvalidParameter("url", f"'{url}' is no server address; write http://HOST:PORT")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port or (443 if self._secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._headers = {
            "User-Agent": f"mooring/{__version__}",
            "Accept": "application/json, text/event-stream, */*",
        }
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def is_alive(self, timeout: float = 2.0) -> bool:
        """Whether a Mooring server answers there."""
        try:
            answer = self._json("GET", "/health", timeout=timeout)
        except MooringError:
            return False
        return isinstance(answer, dict) and answer.get("status") == "ok"

    def get(self, path: str) -> Any:
        """The JSON that ``path`` answers. Raises ServerUnreachable, RemoteError."""
        return self._json("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        return self._json("POST", path, body)

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def text(self, path: str) -> Generator[str, None, None]:
        """The lines of a plain-text answer as they come, without their ends."""
        for line in self._lines("GET", path):
            yield line.decode("utf-8", "replace").rstrip("\r\n")

    def ndjson(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """One object a line as they come; an ``error`` line is raised."""
        for line in self._lines("POST", path, body):
            if line.strip():
                yield self._checked(json.loads(line))

    def events(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """The data of a server-sent event stream up to ``[DONE]``; an ``error`` event is raised.

        Closing the iterator closes the connection, which tells the server to stop generating.
        """
        for line in self._lines("POST", path, body, headers):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield self._checked(json.loads(data))
        raise ServerUnreachable(
            f"The server at {self.url} went away in the middle of the answer. Ask again; `mooring logs MODEL` "
            f"may say what happened."
        )

    @staticmethod
    def _checked(item: dict[str, Any]) -> dict[str, Any]:
        error = item.get("error")
        if isinstance(error, dict):
            raise RemoteError(502, error)
        return item

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = _ANSWER_TIMEOUT,
    ) -> Any:
        connection = self._connection(min(timeout, _CONNECT_TIMEOUT))
        try:
            data = self._send(connection, method, path, body, {}, timeout).read()
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        try:
            return json.loads(data) if data else None
        except ValueError as error:
            raise self._not_mooring() from error

    def _lines(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Generator[bytes, None, None]:
        connection = self._connection(_CONNECT_TIMEOUT)
        try:
            response = self._send(connection, method, path, body, headers or {}, None)
            while line := response.readline():
                yield line
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _connection(self, timeout: float) -> HTTPConnection:
        if self._secure:
            return HTTPSConnection(self._host, self._port, timeout=timeout)
        return HTTPConnection(self._host, self._port, timeout=timeout)

    def _send(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        timeout: float | None,
    ) -> HTTPResponse:
        """The answer, not read yet. ``timeout`` is for each read in seconds; None waits for ever."""
        connection.connect()
        connection.sock.settimeout(timeout)
        sent = {**self._headers, **headers}
        data = None
        if body is not None:
            data = json.dumps(body, ensure_ascii=False).encode()
            sent["Content-Type"] = "application/json"
        connection.request(method, self._prefix + path, data, sent)
        response = connection.getresponse()
        if response.status >= 400:
            raise self._refusal(response)
        return response

    def _refusal(self, response: HTTPResponse) -> MooringError:
        data = response.read(_MAX_ERROR_BYTES)
        try:
            error = json.loads(data)["error"]
        except (ValueError, KeyError, TypeError):
            return self._not_mooring(response.status)
        if not isinstance(error, dict):
            return self._not_mooring(response.status)
        return RemoteError(response.status, error)

    def _not_mooring(self, status: int | None = None) -> MooringError:
        said = f" (it answered {status})" if status else ""
        return MooringError(
            f"What listens at {self.url} does not speak like a Mooring server{said}. Check --url and MOORING_URL.",
            code="server_error",
        )

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ServerUnreachable(
            f"No answer from the server at {self.url} ({reason}). Check that it runs (`mooring serve`), "
            f"and --url or MOORING_URL."
        )


def path_of(*parts: str) -> str:
    """``/a/b`` with each part quoted, slashes and colons of model names included."""
    return "/" + "/".join(quote(part, safe="") for part in parts)
