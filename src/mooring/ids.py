"""Identifiers: a type prefix and a UUIDv7, so that they sort by time (RFC 9562 §5.7)."""

from __future__ import annotations

import secrets
import time


def now_ms() -> int:
    """UTC epoch milliseconds, the unit of every stored time."""
    return time.time_ns() // 1_000_000


def new_id(prefix: str) -> str:
    """``prefix_`` and 32 hex digits: 48 bits of milliseconds, version 7, 74 random bits."""
    value = (now_ms() & (1 << 48) - 1) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    value |= 0b10 << 62 | secrets.randbits(62)
    return f"{prefix}_{value:032x}"
