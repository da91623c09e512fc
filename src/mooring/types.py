"""Words that every package shares (ARCHITECTURE.md, "The words")."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Capability(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    TOOLS = "tools"
    VISION = "vision"


class ModelFormat(StrEnum):
    GGUF = "gguf"
    SAFETENSORS = "safetensors"
    ADAPTER = "adapter"


class FileRole(StrEnum):
    """What a file of a model is to the engine that opens it."""

    WEIGHTS = "weights"
    PROJECTOR = "projector"
    ADAPTER = "adapter"
    CONFIG = "config"
    TOKENIZER = "tokenizer"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a model file says of itself. Counts are exact; 0 or "" where the file does not say.

    ``tokenizer`` is GGUF's ``tokenizer.ggml.model``; a WordPiece ("bert") adds "+case" and "+accents" where it
    keeps these, and "+marks" where its file spells marks as ``modelstore/convert/wordpiece.py`` does.
    ``head_count_kv`` and ``kv_layers`` describe the KV cache: ``kv_layers`` layers, each holding
    ``head_count_kv`` heads of ``key_length`` + ``value_length`` elements per token.
    """

    format: ModelFormat
    architecture: str
    capabilities: frozenset[Capability]
    parameters: int = 0
    quantization: str = ""
    weights_bytes: int = 0
    context_length: int = 0
    embedding_length: int = 0
    feed_forward_length: int = 0
    block_count: int = 0
    head_count: int = 0
    head_count_kv: int = 0
    key_length: int = 0
    value_length: int = 0
    kv_layers: int = 0
    sliding_window: int = 0
    vocab_size: int = 0
    tokenizer: str = ""
    causal: bool = True
    pooling: str = ""
    chat_template: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a long operation, in the shape of Ollama's pull stream. Units are bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


ProgressFn = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The progress callback of callers that show none."""
