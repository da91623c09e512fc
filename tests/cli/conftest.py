"""A command line with a home of its own, and a server in a process for the commands that speak to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.line import CommandLine, make_fake_home
from support.server import RunningServer, mooring_serve


@pytest.fixture
def mooring(tmp_path: Path) -> CommandLine:
    """An empty home."""
    return CommandLine(tmp_path)


@pytest.fixture
def stocked(tmp_path: Path) -> CommandLine:
    """A home with one model, ``tiny``."""
    return CommandLine(make_fake_home(tmp_path, "tiny"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """``mooring serve`` on the fake engine with the models ``tiny`` and ``other``."""
    with mooring_serve(make_fake_home(tmp_path_factory.mktemp("served"), "tiny", "other")) as running:
        yield running


@pytest.fixture
def served(server: RunningServer) -> CommandLine:
    """The command line in the home of a running server."""
    return CommandLine(server.home)
