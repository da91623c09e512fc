"""What the fake model "knows": tokens, answers and vectors, all functions of the text alone."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

_WORD = re.compile(r"\s*\S+|\s+")
_PIECE_BYTES = 7
DIMENSIONS = 64


def tokenize(text: str) -> list[int]:
    """Words cut into pieces of at most seven bytes; a token's id is its bytes, so no vocabulary is needed."""
    pieces = (word.encode() for word in _WORD.findall(text))
    return [
        int.from_bytes(b"\x01" + word[start : start + _PIECE_BYTES])
        for word in pieces
        for start in range(0, len(word), _PIECE_BYTES)
    ]


def detokenize(tokens: list[int]) -> str:
    raw = b"".join(token.to_bytes((token.bit_length() + 7) // 8)[1:] for token in tokens)
    return raw.decode("utf-8", "replace")


def chat_prompt(messages: list[dict[str, Any]]) -> str:
    return "".join(f"{message['role']}: {message_text(message)}\n" for message in messages)


def message_text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def answer(prompt: str) -> Iterator[str]:
    """``/count N`` counts to N, a word a token; anything else is echoed."""
    if match := re.search(r"/count (\d+)", prompt):
        yield from (f" {number}" if number else "0" for number in range(int(match[1])))
    else:
        yield from _WORD.findall(f"You have just said: {prompt.strip()}")


def sample(schema: dict[str, Any]) -> Any:
    """The smallest value that fits the plain parts of a JSON schema."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    properties = schema.get("properties", {})
    simple = {"string": "fake", "integer": 1, "number": 1.5, "boolean": True, "null": None, "array": []}
    return simple[kind] if kind in simple else {name: sample(value) for name, value in properties.items()}


def embed(text: str) -> list[float]:
    """A unit vector; texts that share words are near each other."""
    vector = [1e-6] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % DIMENSIONS] += 1.0
    norm = math.sqrt(math.fsum(value * value for value in vector))
    return [value / norm for value in vector]
