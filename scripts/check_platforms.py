"""Resolves the base install for each platform, from wheels alone, and the extras for Linux; installs nothing.

A platform passes if every dependency has a wheel for it, at the pinned versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")

PLATFORMS = {
    "Linux x86_64": "x86_64-manylinux_2_28",
    "Linux aarch64": "aarch64-manylinux_2_28",
    "macOS 14 arm64": "aarch64-apple-darwin",
    "Windows x86_64": "x86_64-pc-windows-msvc",
}
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("native", "train", "cluster", "postgres")
NOT_IN_BASE = ("torch", "transformers", "triton", "ray", "vllm", "nvidia-cublas", "nvidia-cudnn-cu13")


class CheckFailed(Exception):
    pass


def resolve(platform: str, python: str, *options: str) -> list[str]:
    """The ``name==version`` lines of one resolution."""
    command = [str(UV), "pip", "compile", "pyproject.toml", "--only-binary", ":all:", "--quiet"]
    command += ["--no-annotate", "--no-header", "--python-platform", platform, "--python-version", python]
    run = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        raise CheckFailed(run.stderr.strip())
    return [line.split(" ")[0] for line in run.stdout.splitlines() if "==" in line]


def check_base(label: str, platform: str, python: str) -> None:
    found = resolve(platform, python, "--constraint", "constraints.txt")
    names = {line.split("==")[0] for line in found}
    heavy = names.intersection(NOT_IN_BASE)
    if heavy:
        raise CheckFailed(f"the base install pulls {', '.join(sorted(heavy))}")
    print(f"ok  {label}, Python {python}: {len(found)} packages, all with wheels")


def check_extra(extra: str) -> None:
    """Extras are resolved freely: constraints.txt pins the CPU build of torch."""
    found = resolve(PLATFORMS["Linux x86_64"], "3.11", "--extra", extra)
    banned = [line for line in found if line.startswith(("torchvision==", "torchaudio=="))]
    if banned:
        raise CheckFailed(f"pulls {', '.join(banned)}, which have no CPU build")
    print(f"ok  extra '{extra}' on Linux x86_64: {len(found)} packages")


def main() -> int:
    failures = 0
    for label, platform in PLATFORMS.items():
        for python in PYTHONS:
            try:
                check_base(label, platform, python)
            except CheckFailed as error:
                failures += 1
                print(f"FAILED  {label}, Python {python}: {error}")
    for extra in EXTRAS:
        try:
            check_extra(extra)
        except CheckFailed as error:
            failures += 1
            print(f"FAILED  extra '{extra}': {error}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
