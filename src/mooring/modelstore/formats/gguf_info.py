"""What a GGUF header says of its model. Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mooring.errors import InvalidModelFile
from mooring.modelstore.convert.wordpiece import MARK_OFFSET, MARK_OFFSET_KEY
from mooring.modelstore.formats.capabilities import capabilities_of
from mooring.modelstore.formats.ggml import FILE_TYPES
from mooring.modelstore.formats.gguf import GGUFHeader, SkippedArray
from mooring.types import Capability, ModelFormat, ModelInfo

# Architectures that llama.cpp runs without a KV cache and without a next token to predict.
_ENCODERS = frozenset(
    {
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "eurobert",
        "gemma-embedding",
        "t5encoder",
        "wavtokenizer-dec",
    }
)
_RECURRENT = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})
_POOLING = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama_pooling_type


def gguf_info(header: GGUFHeader) -> ModelInfo:
    """Describe a model, a projector (``clip``) or a LoRA adapter. Raises InvalidModelFile."""
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise InvalidModelFile("The GGUF file does not name its architecture; get a complete file.")
    if _int(metadata, "split.count") > 1:
        raise InvalidModelFile(
            "This GGUF file is one part of several. Join them first: "
            "`llama-gguf-split --merge FIRST-PART.gguf WHOLE.gguf`, then use the whole file."
        )
    if metadata.get("general.type") == "adapter":
        return _bare(header, architecture, ModelFormat.ADAPTER, frozenset())
    if architecture == "clip" or metadata.get("general.type") == "mmproj":
        return _bare(header, architecture, ModelFormat.GGUF, frozenset({Capability.VISION}))
    return _model(header, architecture)


def _bare(
    header: GGUFHeader, architecture: str, kind: ModelFormat, capabilities: frozenset[Capability]
) -> ModelInfo:
    return ModelInfo(
        format=kind,
        architecture=architecture,
        capabilities=capabilities,
        parameters=sum(tensor.elements for tensor in header.tensors),
        quantization=_quantization(header),
        weights_bytes=sum(tensor.nbytes for tensor in header.tensors),
        causal=False,
    )


def _model(header: GGUFHeader, architecture: str) -> ModelInfo:
    metadata = header.metadata

    def number(key: str) -> int:
        return _int(metadata, f"{architecture}.{key}")

    causal = architecture not in _ENCODERS and metadata.get(f"{architecture}.attention.causal") is not False
    pooling = _pooling(header, architecture)
    template = metadata.get("tokenizer.chat_template")
    template = template if isinstance(template, str) else ""
    heads = max(_per_layer(metadata, f"{architecture}.attention.head_count"), default=0)
    heads_kv, kv_layers = _kv_shape(metadata, architecture, heads)
    head = number("embedding_length") // heads if heads else 0
    return ModelInfo(
        format=ModelFormat.GGUF,
        architecture=architecture,
        capabilities=capabilities_of(causal=causal, pooling=pooling, chat_template=template),
        parameters=sum(tensor.elements for tensor in header.tensors),
        quantization=_quantization(header),
        weights_bytes=sum(tensor.nbytes for tensor in header.tensors),
        context_length=number("context_length"),
        embedding_length=number("embedding_length"),
        feed_forward_length=max(_per_layer(metadata, f"{architecture}.feed_forward_length"), default=0),
        block_count=number("block_count"),
        head_count=heads,
        head_count_kv=heads_kv,
        key_length=number("attention.key_length") or head,
        value_length=number("attention.value_length") or head,
        kv_layers=kv_layers,
        sliding_window=number("attention.sliding_window"),
        vocab_size=_vocab_size(header, architecture),
        tokenizer=_tokenizer(metadata),
        causal=causal,
        pooling=pooling,
        chat_template=template,
    )


def _kv_shape(metadata: dict[str, Any], architecture: str, heads: int) -> tuple[int, int]:
    """KV heads, and how many layers have them: fewer than all in hybrids and where layers share a cache."""
    blocks = _int(metadata, f"{architecture}.block_count")
    listed = _per_layer(metadata, f"{architecture}.attention.head_count_kv")
    if len(listed) > 1:
        with_cache = [count for count in listed if count]
        heads_kv, layers = -(-sum(with_cache) // max(1, len(with_cache))), len(with_cache)
    else:
        heads_kv, layers = (listed[0] if listed else heads), blocks
        if interval := _int(metadata, f"{architecture}.full_attention_interval"):
            layers = blocks // interval
    layers -= min(layers, _int(metadata, f"{architecture}.attention.shared_kv_layers"))
    no_cache = architecture in _ENCODERS or architecture in _RECURRENT
    return heads_kv, 0 if no_cache else layers


def _pooling(header: GGUFHeader, architecture: str) -> str:
    stated = header.metadata.get(f"{architecture}.pooling_type")
    if isinstance(stated, int) and stated in _POOLING:
        return _POOLING[stated]
    ranks = any(tensor.name in ("cls.weight", "cls.output.weight") for tensor in header.tensors)
    return "rank" if ranks else ""


def _vocab_size(header: GGUFHeader, architecture: str) -> int:
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.count
    return len(tokens) if isinstance(tokens, list) else _int(header.metadata, f"{architecture}.vocab_size")


def _tokenizer(metadata: dict[str, Any]) -> str:
    model = metadata.get("tokenizer.ggml.model")
    if model != "bert":
        return model if isinstance(model, str) else ""
    special = {
        "case": metadata.get("tokenizer.ggml.normalizer.lowercase") is False,
        "accents": metadata.get("tokenizer.ggml.normalizer.strip_accents") is False,
        "marks": metadata.get(MARK_OFFSET_KEY) == MARK_OFFSET,
    }
    return "+".join([model, *(name for name, applies in special.items() if applies)])


def _quantization(header: GGUFHeader) -> str:
    label = FILE_TYPES.get(_int(header.metadata, "general.file_type", -1))
    if label is not None:
        return label
    weight: Counter[str] = Counter()
    for tensor in header.tensors:
        weight[tensor.type] += tensor.elements
    return weight.most_common(1)[0][0] if weight else ""


def _int(metadata: dict[str, Any], key: str, default: int = 0) -> int:
    value = metadata.get(key)
    return value if isinstance(value, int) and 0 <= value < 1 << 53 else default


def _per_layer(metadata: dict[str, Any], key: str) -> list[int]:
    """A number that is one for all layers or listed for each."""
    value = metadata.get(key)
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, int) and 0 <= item < 1 << 53]
