"""What a check found."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """``advice`` says what to do; only a finding that is not ok has some."""

    level: Level
    check: str
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(Level.OK, check, message)


def warn(check: str, message: str, advice: str) -> Finding:
    return Finding(Level.WARN, check, message, advice)


def fail(check: str, message: str, advice: str) -> Finding:
    return Finding(Level.FAIL, check, message, advice)
