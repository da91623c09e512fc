"""Writers of tiny random models: real files that real engines open, deterministic, each under 2 MB."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """The shape of a random Llama. ``dtype`` is a GGUF quantisation type: F32, F16, Q8_0, Q4_0, Q4_1;
    ``merges`` makes its vocabulary a byte-pair encoding instead of SentencePiece with bytes."""

    layers: int = 2
    embedding: int = 64
    feed_forward: int = 128
    heads: int = 4
    heads_kv: int = 2
    context: int = 256
    vocab: int = 384
    merges: bool = False
    tied: bool = True
    dtype: str = "F16"

    @property
    def head_size(self) -> int:
        return self.embedding // self.heads


def write_llama(
    path: Path, shape: LlamaShape | None = None, *, seed: int = 0, chat_template: str = CHAT_TEMPLATE
) -> Path:
    """A Llama with random weights and a byte-level SentencePiece vocabulary; babbles, but decodes."""
    import gguf

    shape = shape or LlamaShape()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-llama")
    writer.add_type("model")
    writer.add_file_type(
        gguf.LlamaFileType.ALL_F32 if shape.dtype == "F32" else gguf.LlamaFileType[f"MOSTLY_{shape.dtype}"]
    )
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_block_count(shape.layers)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads_kv)
    writer.add_rope_dimension_count(shape.head_size)
    writer.add_layer_norm_rms_eps(1e-5)
    (_add_merged_vocabulary if shape.merges else _add_byte_vocabulary)(writer, shape.vocab)
    if chat_template:
        writer.add_chat_template(chat_template)
    _add_random_tensors(writer, _llama_tensors(shape), shape.dtype, seed)
    return path


def _add_byte_vocabulary(writer: Any, size: int) -> None:
    """<unk> <s> </s>, the 256 bytes, printable ASCII and the space; filled up with unused tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    pieces += [chr(code) for code in range(33, 127)]
    assert size >= len(pieces), f"a byte vocabulary needs {len(pieces)} tokens"
    filler = size - len(pieces)
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) - 259), *[5] * filler]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces + [f"<unused{i}>" for i in range(filler)])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)


def _add_merged_vocabulary(writer: Any, size: int) -> None:
    """GPT-2's byte alphabet, its pairs, then those pairs with one more, as far as ``size`` goes; <s> is last."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    merges = [f"{a} {b}" for a in letters for b in letters] + [
        f"{a}{b} {b}" for a in letters for b in letters
    ]
    merges = merges[: size - len(letters) - 1]
    pieces = [*letters, *(merge.replace(" ", "") for merge in merges)]
    assert len(pieces) == size - 1, f"no byte-pair vocabulary of {size} tokens"
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*pieces, "<s>"])
    writer.add_token_types([*[1] * len(pieces), 3])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(len(pieces))
    writer.add_eos_token_id(len(pieces))


def _llama_tensors(shape: LlamaShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, inner, kv = shape.embedding, shape.feed_forward, shape.heads_kv * shape.head_size
    yield "token_embd.weight", (shape.vocab, wide)
    yield "output_norm.weight", (wide,)
    if not shape.tied:
        yield "output.weight", (shape.vocab, wide)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield block + "attn_norm.weight", (wide,)
        yield block + "attn_q.weight", (wide, wide)
        yield block + "attn_k.weight", (kv, wide)
        yield block + "attn_v.weight", (kv, wide)
        yield block + "attn_output.weight", (wide, wide)
        yield block + "ffn_norm.weight", (wide,)
        yield block + "ffn_gate.weight", (inner, wide)
        yield block + "ffn_up.weight", (inner, wide)
        yield block + "ffn_down.weight", (wide, inner)


def _add_random_tensors(
    writer: Any, tensors: Iterator[tuple[str, tuple[int, ...]]], dtype: str, seed: int
) -> None:
    """Writes matrices in ``dtype`` and vectors as ones, one tensor in memory at a time."""
    import gguf

    kind = gguf.GGMLQuantizationType[dtype]
    shapes = list(tensors)
    for name, dims in shapes:
        stored = kind if len(dims) > 1 else gguf.GGMLQuantizationType.F32
        bytes_shape = gguf.quant_shape_to_byte_shape(dims, stored)
        plain = {"F32": np.float32, "F16": np.float16}.get(stored.name)
        writer.add_tensor_info(
            name,
            dims if plain else bytes_shape,
            np.dtype(plain or np.uint8),
            int(np.prod(bytes_shape)),
            None if plain else stored,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for _, dims in shapes:
        if len(dims) == 1:
            writer.write_tensor_data(np.ones(dims, np.float32))
        else:
            values = rng.standard_normal(dims, np.float32) * np.float32(dims[-1] ** -0.5)
            writer.write_tensor_data(gguf.quantize(values, kind))
    writer.close()


BERT_WORDS = (
    *[
        "the",
        "a",
        "is",
        "of",
        "in",
        "berlin",
        "people",
        "live",
        "many",
        "how",
        "cat",
        "dog",
        "eats",
        "food",
        "rain",
        "sun",
    ],
    *(chr(code) for code in range(97, 123)),
    *(f"##{chr(code)}" for code in range(97, 123)),
    *".,?!",
    "中",
    "文",
)
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_bert_folder(
    folder: Path,
    *,
    seed: int = 0,
    ranks: bool = False,
    segments: int = 2,
    pooling: str = "mean",
    spread: float = 0.2,
) -> Path:
    """A Hugging Face folder of a random BERT; with ``ranks`` a cross-encoder of one label, else a
    sentence-transformers model with ``pooling`` "mean" or "cls". Weights are normal, of deviation ``spread``.
    """
    from safetensors.numpy import save_file

    vocab = [*BERT_SPECIAL, *BERT_WORDS]
    config: dict[str, Any] = {
        "architectures": ["BertForSequenceClassification" if ranks else "BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "type_vocab_size": segments,
        "vocab_size": len(vocab),
    }
    if ranks:
        config["id2label"] = {"0": "LABEL_0"}
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"})
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    if not ranks:
        _write_sentence_transformer(folder, pooling)
    save_file(
        dict(_bert_tensors(config, ranks, np.random.default_rng(seed), spread)), folder / "model.safetensors"
    )
    return folder


def _write_sentence_transformer(folder: Path, pooling: str) -> None:
    kinds = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    modules = [{"name": n, "path": p, "type": f"sentence_transformers.models.{k}"} for n, p, k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **modes})


def _bert_tensors(
    config: dict[str, Any], ranks: bool, rng: np.random.Generator, spread: float
) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    prefix = "bert." if ranks else ""
    for name, dims in _bert_shapes(config):
        gain = np.float32(name.endswith("LayerNorm.weight"))
        yield prefix + name, gain + np.float32(spread) * rng.standard_normal(dims, np.float32)
    if ranks:
        yield "classifier.weight", rng.standard_normal((1, config["hidden_size"]), np.float32)
        yield "classifier.bias", rng.standard_normal((1,), np.float32)


def _bert_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    wide, inner = config["hidden_size"], config["intermediate_size"]
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], wide)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], wide)
    yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], wide)
    yield from _norm("embeddings.LayerNorm", wide)
    for layer in range(config["num_hidden_layers"]):
        block = f"encoder.layer.{layer}."
        for part in ("query", "key", "value"):
            yield from _dense(f"{block}attention.self.{part}", wide, wide)
        yield from _dense(block + "attention.output.dense", wide, wide)
        yield from _norm(block + "attention.output.LayerNorm", wide)
        yield from _dense(block + "intermediate.dense", inner, wide)
        yield from _dense(block + "output.dense", wide, inner)
        yield from _norm(block + "output.LayerNorm", wide)
    yield from _dense("pooler.dense", wide, wide)


def _dense(name: str, rows: int, columns: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (rows, columns)
    yield name + ".bias", (rows,)


def _norm(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield name + ".weight", (size,)
    yield name + ".bias", (size,)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), "utf-8")
