"""Checks of this machine: Python, the home folder, memory, engines."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mooring import __version__
from mooring.cli.checks.finding import Finding, fail, ok, warn
from mooring.cli.output import format_bytes, format_memory

_ENGINES = {"llamacpp": "xllamacpp"}
_IMPORT_TIMEOUT = 60.0
_LITTLE_DISK = 5_000_000_000
_NO_DISK = 500_000_000
_LITTLE_RAM = 1 << 30


def check_python() -> Iterator[Finding]:
    """The interpreter and the platform; wheels of the engines exist for 64-bit systems only."""
    words = (
        f"Mooring {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    )
    if sys.maxsize < 2**32:
        yield fail(
            "python", f"{words}, 32-bit", "Install a 64-bit Python: the engines have no 32-bit builds."
        )
    else:
        yield ok("python", words)


def check_home(home: Path) -> Iterator[Finding]:
    """Whether the home folder can be written, and the disk beneath it has room."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            yield ok("home", f"{home} can be written")
    except OSError as error:
        yield fail(
            "home",
            f"{home} cannot be written: {error.strerror}",
            "Mend its permissions, or choose another folder with --home or MOORING_HOME.",
        )
        return
    free = shutil.disk_usage(existing).free
    advice = (
        "Free some space (`mooring list` shows sizes, `mooring rm MODEL` removes), or move the home folder."
    )
    if free < _NO_DISK:
        yield fail("disk", f"only {format_bytes(free)} free", advice)
    elif free < _LITTLE_DISK:
        yield warn("disk", f"only {format_bytes(free)} free; a 7B model takes about 5 GB", advice)
    else:
        yield ok("disk", f"{format_bytes(free)} free")


def check_memory(memory_limit: int | None) -> Iterator[Finding]:
    """RAM and GPUs as the planner sees them, limits of containers included."""
    from mooring.cluster.hardware import read_machine

    machine = read_machine(memory_limit)
    words = (
        f"{format_memory(machine.ram_available)} of {format_memory(machine.ram_total)} free, "
        f"{machine.cores_physical} physical cores"
    )
    if machine.ram_available < _LITTLE_RAM:
        yield warn(
            "memory", words, "Close other programs or unload models (`mooring ps`, `mooring stop MODEL`)."
        )
    else:
        yield ok("memory", words)
    for gpu in machine.gpus:
        yield ok(
            "gpu", f"{gpu.index}: {gpu.name}, {format_memory(gpu.free)} of {format_memory(gpu.total)} free"
        )
    if not machine.gpus:
        yield ok("gpu", "none found; models run on the CPU")


def check_engines() -> Iterator[Finding]:
    """Whether the engines can be imported, each tried in a process of its own as a worker would."""
    for engine, module in _ENGINES.items():
        problem = _import_problem(module)
        if not problem:
            yield ok("engine", f"{engine} ({module}) can be imported")
            continue
        yield fail(
            "engine",
            f"{engine} ({module}) cannot be imported: {problem}",
            f"Install it again (`pip install --force-reinstall {module}`); on an old Linux it may need a newer glibc.",
        )


def _import_problem(module: str) -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_IMPORT_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_IMPORT_TIMEOUT:.0f} s"
    if done.returncode == 0:
        return ""
    last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return last[0] if last else f"its process ended with code {done.returncode}"
