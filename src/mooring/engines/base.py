"""The engine contract: how a worker is told what to run, and how the gateway speaks to it.

A worker is ``python -m <EngineDef.worker_module>``; ``engines/process.py`` has its side of the pipe protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mooring.errors import MooringError
from mooring.types import Capability, ModelFormat, ModelInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """All a worker needs, one JSON line on its stdin. ``context`` is tokens per slot, ``slots`` sequences
    decoded at once; ``options`` belong to the engine, and an unknown one is an error."""

    engine: str
    model: str
    worker_id: str
    weights: Path
    api_key: str
    capabilities: frozenset[Capability]
    context: int
    slots: int
    threads: int
    gpu_layers: int = 0
    pooling: str = ""
    chat_template: str = ""
    projector: Path | None = None
    adapters: tuple[Path, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"capabilities": sorted(self.capabilities)}, default=str)

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        data = json.loads(text)
        data["weights"] = Path(data["weights"])
        data["capabilities"] = frozenset(Capability(name) for name in data["capabilities"])
        data["projector"] = Path(data["projector"]) if data["projector"] else None
        data["adapters"] = tuple(Path(path) for path in data["adapters"])
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The loaded model that a request goes to."""

    model: str
    context: int
    info: ModelInfo

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.info.capabilities


class EventFilter(Protocol):
    """Rewrites one stream. ``feed`` takes one whole SSE event with its trailing blank line."""

    def feed(self, event: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One request as the engine wants it; ``body`` None: forward the client's bytes as they are.
    ``unary`` rewrites a whole 200 answer, ``events`` makes the filter of one stream; None passes bytes on."""

    path: str
    body: dict[str, Any] | None = None
    unary: Callable[[bytes], bytes] | None = None
    events: Callable[[], EventFilter] | None = None


class Dialect(Protocol):
    """Endpoints: chat/completions, completions, embeddings, rerank, tokenize, detokenize. Bodies have
    passed the API's validation. ``prepare`` raises MooringErrors of status 400."""

    def prepare(self, endpoint: str, body: dict[str, Any], target: Target) -> Prepared: ...
    def error(self, status: int, body: bytes, target: Target) -> MooringError: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDef:
    """``native_n`` False: ``n`` > 1 and several prompts must be sent as one request per sequence."""

    name: str
    worker_module: str
    dialect: Dialect
    formats: frozenset[ModelFormat]
    capabilities: frozenset[Capability]
    native_n: bool
