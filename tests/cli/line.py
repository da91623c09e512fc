"""``mooring`` as tests call it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from mooring.cli.app import build_app
from support.server import fake_home


@dataclass
class CommandLine:
    """``mooring`` called in this process; stdin is a pipe, as in a script."""

    home: Path

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(build_app(), ["--home", str(self.home), *arguments], input=stdin)

    def json(self, *arguments: str) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.splitlines()[-1])


def make_fake_home(home: Path, *names: str) -> Path:
    """Models of the fake engine, deployed by the settings file, so that any server of this home runs them."""
    fake_home(home, *names)
    wishes = {f"{name}:latest": {"engine": "fake", "context": 256, "slots": 2} for name in names}
    (home / "mooring.yaml").write_text(yaml.safe_dump({"deployments": wishes}))
    return home
