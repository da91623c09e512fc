"""``mooring doctor``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from mooring.cli.checks.finding import Finding, Level, fail, ok
from mooring.cli.exit_codes import ExitCode
from mooring.cli.invocation import Invocation, JsonOption, invocation_of
from mooring.cli.output import print_json, print_line
from mooring.errors import MooringError

_COLOURS = {Level.OK: "\x1b[32m", Level.WARN: "\x1b[33m", Level.FAIL: "\x1b[31m"}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    ctx: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Do not try the models' sources.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and say what to mend.

    Exits with 1 if something must be mended before Mooring can work.
    """
    findings = _shown(_findings(invocation_of(ctx), offline), as_json)
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [finding._asdict() for finding in findings]})
    if failed:
        raise typer.Exit(ExitCode.FAILURE)


def _shown(findings: Iterable[Finding], as_json: bool) -> list[Finding]:
    """All findings, each printed as it comes: some checks take seconds."""
    seen = []
    colour = sys.stdout.isatty()
    for finding in findings:
        seen.append(finding)
        if as_json:
            continue
        word = f"{finding.level.value:<4}"
        if colour:
            word = f"{_COLOURS[finding.level]}{word}\x1b[0m"
        print_line(f"{word}  {finding.check:<9}  {finding.message}")
        if finding.advice:
            print_line(f"      {'':<9}  → {finding.advice}")
        sys.stdout.flush()
    return seen


def _findings(invocation: Invocation, offline: bool) -> Iterator[Finding]:
    from mooring.cli.checks import machine, network, store

    yield from machine.check_python()
    try:
        settings = invocation.settings(offline=offline or None)
    except MooringError as error:
        yield fail("settings", error.message, "Mend the file or the variable that it names.")
        return
    yield ok("settings", f"{settings.home / 'mooring.yaml'} and MOORING_* variables are sound")
    yield from machine.check_home(settings.home)
    yield from machine.check_memory(settings.memory_limit)
    yield from machine.check_engines()
    yield from network.check_server_file(settings.server_file)
    yield from network.check_port(settings)
    yield from network.check_proxies()
    models = invocation.store()
    yield from store.check_models(models)
    yield from store.check_partials(models)
    yield from network.check_sources(settings)
