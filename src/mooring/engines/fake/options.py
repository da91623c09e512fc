"""What a test can ask of the fake engine (``WorkerSpec.options``)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mooring.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class FakeOptions:
    """``token_delay`` and ``load_time`` in seconds, ``memory`` held in bytes, ``fail``: refuse to load so."""

    token_delay: float = 0.0
    load_time: float = 0.0
    memory: int = 0
    fail: str = ""

    @classmethod
    def parse(cls, options: dict[str, Any]) -> FakeOptions:
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise InvalidParameter("options", f"unknown {unknown}; the fake engine has {sorted(known)}")
        return cls(**options)
