"""A bounded reader of GGUF headers: metadata and tensor table, never the weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Whatever the bytes are, the outcome is a
header or InvalidModelFile; no claim of the file (counts, lengths) is trusted before it is held against its size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mooring.errors import InvalidModelFile
from mooring.modelstore.formats.ggml import TENSOR_TYPES

MAGIC = b"GGUF"
_CHUNK = 1024 * 1024
_MAX_HEADER = 512 * 1024 * 1024  # bytes; the largest vocabularies take some 20 MB
_MAX_STRING = 16 * 1024 * 1024
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
_MAX_TENSORS = 200_000
_MAX_PAIRS = 65_536
_KEEP_ARRAY = 4096  # elements; longer arrays (vocabularies) are counted and skipped
_KEEP_ARRAYS = 1_000_000  # elements of all arrays together
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """``shape`` as GGUF orders it (fastest dimension first); ``offset`` from the start of the file; bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """Stands in the metadata for an array too long to keep."""

    count: int


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """``metadata`` holds Python values; long arrays are SkippedArray. ``data_offset`` is where the weights begin."""

    version: int
    metadata: dict[str, Any]
    tensors: list[TensorInfo]
    data_offset: int


def read_gguf(file: Path | BinaryIO) -> GGUFHeader:
    """Read the header of a GGUF file (versions 2 and 3) and hold its tensors against the file's size.

    Raises InvalidModelFile for anything else, damaged or cut short.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _Reader(opened, file.name).header()
    return _Reader(file, getattr(file, "name", "the file")).header()


class _Reader:
    def __init__(self, file: BinaryIO, name: object) -> None:
        self._file, self._name = file, name
        self._size = file.seek(0, 2)
        file.seek(0)
        self._buffer, self._base, self._at = b"", 0, 0  # the buffer's place in the file; ours in the buffer
        self._kept = 0

    def header(self) -> GGUFHeader:
        if self._take(4) != MAGIC:
            raise self._invalid("it is not a GGUF file")
        version = self._unpack("I")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "big-endian" if swapped in (2, 3) else f"version {version}"
            raise self._invalid(f"it is {what} GGUF; versions 2 and 3, little-endian, are supported")
        tensors, pairs = self._unpack("Q"), self._unpack("Q")
        self._expect(tensors, 24, "tensors")
        self._expect(pairs, 13, "metadata entries")
        if tensors > _MAX_TENSORS or pairs > _MAX_PAIRS:
            raise self._invalid(f"it claims {tensors:,} tensors and {pairs:,} metadata entries")
        metadata = {self._key(): self._value(self._unpack("I")) for _ in range(pairs)}
        table = [self._tensor() for _ in range(tensors)]
        return self._place(version, metadata, table)

    def _place(self, version: int, metadata: dict[str, Any], table: list[TensorInfo]) -> GGUFHeader:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._invalid(f"its alignment is {alignment!r}")
        start = -(-self._position // alignment) * alignment
        placed = [TensorInfo(t.name, t.shape, t.type, t.offset + start, t.nbytes) for t in table]
        end = max((tensor.offset + tensor.nbytes for tensor in placed), default=0)
        if end > self._size:
            raise self._invalid(
                f"its tensors end at byte {end:,}, but it has {self._size:,}: it is cut short"
            )
        return GGUFHeader(version, metadata, placed, start)

    def _tensor(self) -> TensorInfo:
        name = self._string()
        dimensions = self._unpack("I")
        if dimensions > _MAX_DIMENSIONS:
            raise self._invalid(f"tensor '{name[:80]}' has {dimensions} dimensions")
        shape = tuple(self._unpack("Q") for _ in range(dimensions))
        number, offset = self._unpack("I"), self._unpack("Q")
        kind = TENSOR_TYPES.get(number)
        if kind is None:
            raise self._invalid(f"tensor '{name[:80]}' has type {number}, which is unknown; update Mooring")
        elements = math.prod(shape)
        if elements > 1 << 62 or (shape and shape[0] % kind.block):
            raise self._invalid(f"tensor '{name[:80]}' has shape {shape}, which {kind.name} cannot have")
        return TensorInfo(name, shape, kind.name, offset, elements // kind.block * kind.size)

    # Values

    def _key(self) -> str:
        length = self._unpack("Q")
        if length > 65535:
            raise self._invalid("a metadata key is too long")
        return self._take(length).decode(errors="replace")

    def _string(self) -> str:
        length = self._unpack("Q")
        if length > _MAX_STRING:
            raise self._invalid(f"a text of {length:,} bytes is too long")
        return self._take(length).decode(errors="replace")

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._unpack(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array()
        raise self._invalid(f"a metadata value has type {kind}, which is unknown")

    def _array(self) -> list[Any] | SkippedArray:
        kind, count = self._unpack("I"), self._unpack("Q")
        if kind == _STRING:
            self._expect(count, 8, "texts in a list")
            if not self._keeps(count):
                self._skip_strings(count)
                return SkippedArray(count)
            return [self._string() for _ in range(count)]
        if kind not in _SCALARS:
            raise self._invalid(f"a metadata list has elements of type {kind}, which is unknown")
        layout = _SCALARS[kind]
        size = struct.calcsize(f"<{layout}")
        self._expect(count, size, "numbers in a list")
        if not self._keeps(count):
            self._seek(self._position + count * size)
            return SkippedArray(count)
        return list(struct.unpack(f"<{count}{layout}", self._take(count * size)))

    def _keeps(self, count: int) -> bool:
        if count > _KEEP_ARRAY or self._kept + count > _KEEP_ARRAYS:
            return False
        self._kept += count
        return True

    def _skip_strings(self, count: int) -> None:
        """Step over ``count`` texts; the loop is tight because vocabularies have hundreds of thousands."""
        length_at: Callable[[bytes, int], tuple[int]] = struct.Struct("<Q").unpack_from
        for _ in range(count):
            at = self._at
            if at + 8 > len(self._buffer):
                self._fill(8)
                at = self._at
            self._at = at + 8 + length_at(self._buffer, at)[0]
            if self._at > len(self._buffer):
                self._seek(self._position)

    # Bytes

    @property
    def _position(self) -> int:
        return self._base + self._at

    def _unpack(self, layout: str) -> Any:
        return struct.unpack(f"<{layout}", self._take(struct.calcsize(f"<{layout}")))[0]

    def _take(self, count: int) -> bytes:
        if self._at + count > len(self._buffer):
            self._fill(count)
        piece = self._buffer[self._at : self._at + count]
        self._at += count
        return piece

    def _fill(self, count: int) -> None:
        """Make ``count`` bytes from the current position available."""
        position = self._position
        if position + count > min(self._size, _MAX_HEADER):
            raise self._invalid("its header goes past its end: it is cut short or damaged")
        self._file.seek(position)
        self._buffer, self._base, self._at = self._file.read(max(count, _CHUNK)), position, 0
        if len(self._buffer) < count:
            raise self._invalid("it became shorter while it was read")

    def _seek(self, position: int) -> None:
        if position > min(self._size, _MAX_HEADER):
            raise self._invalid("its header goes past its end: it is cut short or damaged")
        if self._base <= position <= self._base + len(self._buffer):
            self._at = position - self._base
        else:
            self._buffer, self._base, self._at = b"", position, 0

    def _expect(self, count: int, size: int, what: str) -> None:
        """Refuse a count that the rest of the file cannot hold at ``size`` bytes each at least."""
        if count * size > self._size - self._position:
            raise self._invalid(f"it claims {count:,} {what}, more than fit into it: cut short or damaged")

    def _invalid(self, problem: str) -> InvalidModelFile:
        return InvalidModelFile(f"{self._name} is not a usable model file: {problem}. Get the file again.")
