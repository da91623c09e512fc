"""``mooring doctor`` finds what goes wrong in a first hour, and says what to do."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from pathlib import Path

import pytest

from cli.line import CommandLine
from mooring.cli.checks import machine, network
from mooring.cli.checks.finding import Level
from mooring.config import Settings


@pytest.fixture(autouse=True)
def _engines_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing the real engine takes seconds; one test does it."""
    monkeypatch.setattr(machine, "_ENGINES", {"stdlib": "json"})


def findings(mooring: CommandLine, check: str) -> list[dict[str, str]]:
    result = mooring("doctor", "--offline", "--json")
    return [finding for finding in json.loads(result.stdout)["findings"] if finding["check"] == check]


def test_a_sound_machine_passes(stocked: CommandLine) -> None:
    result = stocked("doctor", "--offline")
    assert result.exit_code == 0, result.output
    assert "1 sound model" in result.stdout
    assert "fail" not in result.stdout


def test_the_engine_is_tried_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        machine, "_ENGINES", {"none": "no_such_engine", "crash": "json; import os; os._exit(3)"}
    )
    missing, crashed = machine.check_engines()
    assert (missing.level, crashed.level) == (Level.FAIL, Level.FAIL)
    assert "no_such_engine" in missing.message
    assert "code 3" in crashed.message
    assert "pip install" in missing.advice


def test_a_moved_reference_fails_with_the_models_name(stocked: CommandLine) -> None:
    (stocked.home / "tiny.gguf").unlink()
    result = stocked("doctor", "--offline")
    assert result.exit_code == 1
    assert "mooring rm tiny:latest" in result.stdout


def test_a_half_download_is_named_with_what_to_do(mooring: CommandLine) -> None:
    blobs = mooring.home / "store" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"sha256-{'a' * 64}-partial").write_bytes(b"half")
    (blobs / f"sha256-{'a' * 64}-partial.json").write_text("{}")
    (found,) = findings(mooring, "downloads")
    assert found["level"] == "warn"
    assert "mooring pull" in found["advice"]


def test_a_wrong_setting_fails_and_is_named(mooring: CommandLine) -> None:
    (mooring.home / "mooring.yaml").write_text("prot: 1\n")
    result = mooring("doctor", "--offline")
    assert result.exit_code == 1
    assert "port" in result.stdout


def test_a_home_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (found, *_) = machine.check_home(tmp_path / "file")
    assert found.level is Level.FAIL
    assert "--home" in found.advice


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_NO_DISK", 1 << 62)
    assert [found.level for found in machine.check_home(tmp_path)] == [Level.OK, Level.FAIL]


def test_a_taken_port_names_its_owner(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (found,) = network.check_port(Settings(home=tmp_path, port=taken.getsockname()[1]))
    assert found.level is Level.WARN
    assert "--port" in found.advice


def test_a_dead_servers_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text('{"url": "http://127.0.0.1:1", "pid": 1, "token": "t"}')
    (found,) = network.check_server_file(tmp_path / "server.json")
    assert found.level is Level.WARN


def test_proxy_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy:3128")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("NO_PROXY", "example.org")
    shown, exempt = network.check_proxies()
    assert "proxy:3128" in shown.message
    assert "secret" not in shown.message
    assert exempt.level is Level.WARN
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert [found.level for found in network.check_proxies()] == [Level.OK]


class Wrong(http.server.BaseHTTPRequestHandler):
    """A source whose clock is an hour off."""

    def do_HEAD(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()


def test_sources_that_do_not_answer_and_a_wrong_clock_are_told(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Wrong) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url, dead = f"http://127.0.0.1:{web.server_address[1]}", "http://127.0.0.1:1"
        names = ("hf_endpoint", "modelscope_endpoint", "ollama_registry")
        sources = {"pypi_index": url, **dict.fromkeys(names, dead)}
        found = [*network.check_sources(Settings.model_validate({"home": tmp_path, "sources": sources}))]
        web.shutdown()
        thread.join()
    assert [one.level for one in found] == [Level.OK, Level.WARN, Level.WARN, Level.WARN, Level.WARN]
    assert found[-1].check == "clock"


def test_offline_tries_no_source(mooring: CommandLine) -> None:
    (found,) = findings(mooring, "sources")
    assert found["level"] == "ok"
