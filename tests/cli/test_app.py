"""The group of commands: light to start, one line for each error."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.line import CommandLine
from mooring.cli.app import build_app, hoist_global_options
from mooring.cli.exit_codes import ExitCode, exit_code_of
from mooring.cli.table import SECTIONS, Entry
from mooring.errors import DiskFull, MemoryBusy, ModelNotFound, ModelTooLarge, SourceError

ENTRIES = [entry for section in SECTIONS for entry in section.entries]
HEAVY = ("pydantic", "yaml", "rich", "prompt_toolkit", "aiohttp", "sqlalchemy", "numpy", "mooring.config")


def test_help_starts_without_the_heavy_packages() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom mooring.cli.app import build_app\n"
        "assert CliRunner().invoke(build_app(), ['--help']).exit_code == 0\n"
        "print(*(name for name in sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(HEAVY) & set(loaded)
    assert not [name for name in loaded if name.startswith("mooring.cli.commands")]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_command_of_the_table_has_help_that_begins_with_its_line(entry: Entry) -> None:
    name, _, line = entry
    result = CliRunner().invoke(build_app(), [name, "--help"])
    assert result.exit_code == 0, result.output
    assert line in " ".join(result.stdout.split())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_a_command_module_is_light_to_import(entry: Entry) -> None:
    """Its heavy imports wait until it is called; here only: it imports at all, and can register."""
    assert callable(importlib.import_module(entry.module).register)


def test_the_help_names_all_commands_and_exit_codes() -> None:
    output = CliRunner().invoke(build_app(), ["--help"]).stdout
    assert all(f"  {entry.name} " in output for entry in ENTRIES)
    assert "130" in output


def test_python_m_mooring_works() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mooring", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mooring ")


def test_a_mistyped_command_shows_the_nearest_one(mooring: CommandLine) -> None:
    result = mooring("lst")
    assert result.exit_code == ExitCode.USAGE
    assert "'list'" in result.stderr


def test_home_may_stand_behind_the_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(build_app(), ["ps", "--home", str(tmp_path)])
    assert str(tmp_path) in result.stderr


def test_a_prompt_that_contains_home_is_left_alone_behind_two_dashes() -> None:
    assert hoist_global_options(["run", "m", "--", "--home", "x"]) == ["run", "m", "--", "--home", "x"]
    assert hoist_global_options(["list", "--url=u", "--home", "x"]) == ["--url=u", "--home", "x", "list"]
    assert hoist_global_options(["list", "--home"]) == ["--home", "list"]


def test_an_error_is_one_line_on_stderr(mooring: CommandLine) -> None:
    result = mooring("show", "nothing-like-it")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_an_error_is_an_object_on_stdout_with_json(mooring: CommandLine) -> None:
    result = mooring("show", "nothing-like-it", "--json")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert json.loads(result.stdout)["error"]["code"] == "model_not_found"
    assert result.stderr == ""


def test_a_wrong_setting_is_a_usage_error_that_names_it(mooring: CommandLine) -> None:
    (mooring.home / "mooring.yaml").write_text("prot: 1\n")
    result = mooring("list")
    assert result.exit_code == ExitCode.USAGE
    assert "port" in result.stderr


def test_a_defect_shows_its_traceback_only_when_asked(
    mooring: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("mooring.modelstore.store.ModelStore.list", broken)
    assert "Traceback" not in mooring("list").stderr
    monkeypatch.setenv("MOORING_LOG_LEVEL", "debug")
    result = mooring("list")
    assert result.exit_code == ExitCode.FAILURE
    assert "Traceback" in result.stderr


def test_ctrl_c_ends_with_130(mooring: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mooring.modelstore.store.ModelStore.list", stopped)
    assert mooring("list").exit_code == ExitCode.INTERRUPTED


def test_a_home_that_is_a_file_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CommandLine(tmp_path / "file")("key", "list")
    assert result.exit_code == ExitCode.USAGE
    assert "Unexpected" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFound("m"), 3),
        (ModelTooLarge("too large"), 5),
        (MemoryBusy("busy"), 5),
        (DiskFull("full"), 5),
        (SourceError("no"), 1),
    ],
)
def test_scripts_can_tell_errors_by_their_exit_code(error: ModelNotFound, code: int) -> None:
    assert exit_code_of(error) == code
