"""A bounded reader of safetensors headers.

Format: https://github.com/huggingface/safetensors#format. Eight bytes of header length, a JSON header, the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec

from mooring.errors import InvalidModelFile

_MAX_HEADER = 100_000_000  # bytes, as the reference implementation has it
# Bits per element.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=32)]
    data_offsets: tuple[_Size, _Size]


@dataclass(frozen=True, slots=True)
class SafeTensor:
    """One tensor of the file; ``offset`` from the start of the file, ``nbytes`` in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_safetensors(path: Path) -> list[SafeTensor]:
    """Read the tensor table and hold it against the file's size.

    Raises InvalidModelFile for anything but an intact safetensors file.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        header = _header(file, path.name, size)
    start = 8 + len(header)
    tensors = [_tensor(name, raw, start, path.name) for name, raw in _entries(header, path.name).items()]
    at = start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        if tensor.offset != at:
            raise _invalid(path.name, f"tensor '{tensor.name[:80]}' overlaps another or leaves a gap")
        at += tensor.nbytes
    if at != size:
        raise _invalid(
            path.name, f"its tensors end at byte {at:,}, but it has {size:,}: it is cut short or damaged"
        )
    return tensors


def _header(file: BinaryIO, name: str, size: int) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise _invalid(name, "its header's length is not sound; it may be no safetensors file, or cut short")
    return file.read(length)


def _entries(header: bytes, name: str) -> dict[str, msgspec.Raw]:
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        if (metadata := entries.pop("__metadata__", None)) is not None:
            msgspec.json.decode(metadata, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(name, f"its header is damaged ({error})") from error
    return entries


def _tensor(name: str, raw: msgspec.Raw, start: int, file: str) -> SafeTensor:
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(file, f"tensor '{name[:80]}' is described wrongly ({error})") from error
    begin, end = entry.data_offsets
    if entry.dtype not in DTYPE_BITS:
        raise _invalid(file, f"tensor '{name[:80]}' has type '{entry.dtype[:20]}', which is unknown")
    if (end - begin) * 8 != math.prod(entry.shape) * DTYPE_BITS[entry.dtype]:
        raise _invalid(file, f"tensor '{name[:80]}' does not have the size of its shape")
    return SafeTensor(name, entry.dtype, tuple(entry.shape), start + begin, end - begin)


def _invalid(name: str, problem: str) -> InvalidModelFile:
    return InvalidModelFile(f"{name} is not a usable safetensors file: {problem}. Get the file again.")
