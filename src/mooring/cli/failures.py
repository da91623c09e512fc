"""Errors at the edge: one clear line on stderr (with ``--json``: one JSON object on stdout), and an exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from mooring.cli.exit_codes import ExitCode, exit_code_of
from mooring.cli.invocation import Invocation
from mooring.cli.output import error_line, print_json
from mooring.errors import DiskFull, MooringError, WorkerFailed


@contextmanager
def reported(invocation: Invocation) -> Iterator[None]:
    """Turn what the block raises into words and ``typer.Exit``; Typer's own exceptions pass."""
    try:
        yield
    except KeyboardInterrupt:
        error_line("Stopped.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except MooringError as error:
        _trace_if_debugging()
        raise typer.Exit(_report(error, as_json=invocation.json)) from None
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        _trace_if_debugging()
        raise typer.Exit(_report(_from_os(error), as_json=invocation.json)) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _is_usage_error(error):
            raise
        _trace_if_debugging()
        wrapped = MooringError(
            f"Unexpected {type(error).__name__}: {error}. This is a defect of Mooring: please report it with the "
            f"traceback that MOORING_LOG_LEVEL=debug shows."
        )
        raise typer.Exit(_report(wrapped, as_json=invocation.json)) from None


def _is_usage_error(error: Exception) -> bool:
    """Whether Typer shows this one itself (its base class is private in some versions, public in others)."""
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def _report(error: MooringError, *, as_json: bool) -> ExitCode:
    if as_json:
        fields = {"message": error.message, "type": error.kind, "code": error.code, "param": error.param}
        print_json({"error": fields})
    else:
        error_line(f"Error: {error.message}")
        if isinstance(error, WorkerFailed) and error.log_tail:
            error_line("\n".join(f"  | {line}" for line in error.log_tail))
    return exit_code_of(error)


def _from_os(error: OSError) -> MooringError:
    where = f" ({error.filename})" if error.filename else ""
    said = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        return DiskFull(
            f"The disk is full{where}. Free some space (`mooring rm MODEL`) and run the command again."
        )
    if isinstance(error, FileNotFoundError):
        return MooringError(f"No such file{where}. Check the path.", code="file_not_found")
    if isinstance(error, PermissionError):
        return MooringError(
            f"Permission denied{where}. Choose another folder with --home, or mend its permissions.",
            code="permission_denied",
        )
    return MooringError(f"{said}{where}. `mooring doctor` checks this machine.")


def _trace_if_debugging() -> None:
    from mooring.config import load_settings

    try:
        debugging = load_settings().log_level == "debug"
    except MooringError:
        debugging = False
    if debugging:
        traceback.print_exc(file=sys.stderr)
