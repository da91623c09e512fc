"""How much memory a model will take, before it is loaded.

The terms are those that llama.cpp allocates (its log names them), with the parameters of
``engines/llamacpp/params.py``; bench/memory.py compares them with the resident size of a real worker.
All sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from mooring.types import Capability, ModelInfo

MIB = 1024 * 1024
# llama.cpp rounds a slot's KV cells up to this (llama_context: n_ctx_seq).
_KV_PADDING = 256
# n_ubatch of a generating worker: tokens of one pass through the graph.
_UBATCH = 512
_F16, _F32 = 2, 4
# A worker with a model of no size, measured: Python, the worker's modules, llama.cpp's code and its server.
_WORKER = 34 * MIB
# Per token of the vocabulary, measured: the piece and its reverse look-up; where pieces come of merges (BPE),
# the table of merges too (llama_vocab).
_PER_TOKEN, _PER_MERGE = 150, 280
# Per slot and token of the vocabulary: a row of logits and the sampler's candidates, measured.
_SAMPLING = 20
# Vocabularies up to this size are SentencePiece's, as are Gemma's; larger ones are byte-pair encodings.
_SENTENCEPIECE_VOCABULARY = 32768
# A CUDA context and its cuBLAS work space on one GPU; from llama.cpp's experience, not run here.
_GPU_RUNTIME = 512 * MIB
# Layers in a period whose last alone attends to everything; the others keep a sliding window (llama.cpp: n_swa).
_WINDOW_PERIODS = {
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "cohere2": 4,
    "gpt-oss": 2,
    "exaone4": 4,
    "olmo2": 4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes in RAM, and ``vram`` on the GPUs. ``runtime``: the process, its vocabulary and its sampling."""

    weights: int
    kv_cache: int
    compute: int
    runtime: int
    vram: int = 0

    @property
    def ram_total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.runtime

    @property
    def vram_total(self) -> int:
        return self.vram


def estimate(
    info: ModelInfo,
    *,
    context: int,
    slots: int,
    gpu_layers: int = 0,
    extra_weights: int = 0,
    unified: bool = False,
) -> MemoryEstimate:
    """What a worker takes that serves ``slots`` sequences of ``context`` tokens.

    ``extra_weights``: files beside the model's own (projector, adapters). ``gpu_layers``: 0 to
    ``block_count`` + 1, the output layer being the last, as llama.cpp counts. ``unified``: the GPU's memory
    is RAM (Apple), so that all of it counts there. The split over a GPU is by formula and was not run.
    """
    kv = kv_cache_bytes(info, context, slots)
    compute = compute_bytes(info, context) + _embedding_output(info, context)
    runtime = _WORKER + _vocabulary_bytes(info, slots)
    weights = info.weights_bytes + extra_weights
    if not gpu_layers or unified:
        return MemoryEstimate(weights=weights, kv_cache=kv, compute=compute, runtime=runtime)
    layers = max(1, info.block_count)
    on_gpu = min(gpu_layers, layers) / layers
    tables = _table_bytes(info)
    head = tables // 2 if gpu_layers > layers else 0
    moved = int(max(0, info.weights_bytes - tables) * on_gpu) + head
    kv_moved = int(kv * on_gpu)
    return MemoryEstimate(
        weights=weights - moved,
        kv_cache=kv - kv_moved,
        compute=compute,
        runtime=runtime,
        vram=moved + kv_moved + compute + _GPU_RUNTIME,
    )


def kv_cache_bytes(info: ModelInfo, context: int, slots: int) -> int:
    """Keys and values in float16: cells × layers × KV heads × (key + value length) × 2 (llama_kv_cache).

    A layer with a sliding window keeps the window and one batch instead of the whole context.
    """
    per_cell = info.head_count_kv * (info.key_length + info.value_length) * _F16
    cells = _padded(context)
    period = _WINDOW_PERIODS.get(info.architecture, 1) if info.sliding_window else 1
    whole = info.kv_layers // period if period > 1 else info.kv_layers
    window = min(cells, _padded(info.sliding_window + _UBATCH))
    return slots * per_cell * (whole * cells + (info.kv_layers - whole) * window)


def compute_bytes(info: ModelInfo, context: int) -> int:
    """The graph's buffer (``compute buffer size`` in the log) for one batch of tokens, with flash attention.

    Per token in float32, a decoder holds gate, up and their product beside five vectors of the residual
    stream's width, an encoder two of the inner width beside one; plus the float16 mask of (context, batch).
    """
    tokens = batch_tokens(info, context)
    wide = max(info.embedding_length, info.head_count * info.key_length)
    if info.causal:
        per_token, mask = 3 * max(info.feed_forward_length, wide) + 5 * wide, _padded(context)
    else:
        per_token, mask = max(2 * info.feed_forward_length + wide, 6 * wide), tokens
    return tokens * (per_token * _F32 + mask * _F16)


def batch_tokens(info: ModelInfo, context: int) -> int:
    """Tokens of one pass: an embedding worker reads a whole text at once (params.py: n_ubatch = context)."""
    return max(32, context) if embeds(info) else min(_UBATCH, _padded(context))


def embeds(info: ModelInfo) -> bool:
    return bool(info.capabilities & {Capability.EMBEDDING, Capability.RERANK})


def _embedding_output(info: ModelInfo, context: int) -> int:
    """When embedding, every token is an output, and llama.cpp then reserves a row of logits for each."""
    return (
        batch_tokens(info, context) * (info.vocab_size + info.embedding_length) * _F32 if embeds(info) else 0
    )


def _vocabulary_bytes(info: ModelInfo, slots: int) -> int:
    if not info.causal:
        return info.vocab_size * _PER_TOKEN
    merged = info.vocab_size > _SENTENCEPIECE_VOCABULARY and not info.architecture.startswith("gemma")
    sampling = 0 if embeds(info) else slots * _SAMPLING
    return info.vocab_size * (_PER_TOKEN + (_PER_MERGE if merged else 0) + sampling)


def _table_bytes(info: ModelInfo) -> int:
    """The token embeddings and the output head where there is one: what is not in the blocks."""
    if not info.parameters:
        return 0
    rows = info.vocab_size * info.embedding_length
    bytes_each = info.weights_bytes / info.parameters
    return int(min(info.weights_bytes, rows * bytes_each * (1 if _is_tied(info, rows) else 2)))


def _is_tied(info: ModelInfo, rows: int) -> bool:
    """Whether embeddings and head are one table: the parameters of dense blocks leave room for one only."""
    kv = info.head_count_kv * (info.key_length + info.value_length)
    attention = info.embedding_length * (2 * info.head_count * info.key_length + kv)
    blocks = info.block_count * (attention + 3 * info.embedding_length * info.feed_forward_length)
    return info.parameters - blocks < 1.5 * rows


def _padded(tokens: int) -> int:
    return -(-tokens // _KV_PADDING) * _KV_PADDING
