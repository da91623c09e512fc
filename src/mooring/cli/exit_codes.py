"""What the exit code of ``mooring`` says to a script."""

from __future__ import annotations

from enum import IntEnum

from mooring.errors import MooringError


class ExitCode(IntEnum):
    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    REFUSED = 5
    INTERRUPTED = 130


EXPLAINED = (
    (ExitCode.OK, "done"),
    (ExitCode.FAILURE, "it failed; the message says why"),
    (ExitCode.USAGE, "wrong arguments or settings"),
    (ExitCode.NOT_FOUND, "no such model, key or file"),
    (ExitCode.UNREACHABLE, "no server answers"),
    (ExitCode.REFUSED, "refused for lack of memory or disk"),
    (ExitCode.INTERRUPTED, "stopped by Ctrl-C"),
)

_BY_CODE = {
    "invalid_parameter": ExitCode.USAGE,
    "invalid_config": ExitCode.USAGE,
    "file_not_found": ExitCode.NOT_FOUND,
    "server_unreachable": ExitCode.UNREACHABLE,
    "model_too_large": ExitCode.REFUSED,
    "memory_busy": ExitCode.REFUSED,
    "disk_full": ExitCode.REFUSED,
}


def exit_code_of(error: MooringError) -> ExitCode:
    """The exit code of an error, raised here or sent by a server (both carry ``code`` and ``status``)."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    return ExitCode.NOT_FOUND if error.status == 404 else ExitCode.FAILURE
