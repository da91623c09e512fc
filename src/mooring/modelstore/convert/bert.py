"""BERT encoders: a Hugging Face folder of safetensors becomes a GGUF that llama.cpp serves.

Covers ``BertModel`` (sentence-transformers, embeddings) and ``BertForSequenceClassification`` with one label
(cross-encoders, rerank). Metadata keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mooring.errors import InvalidModelFile
from mooring.modelstore.convert.folder import read_json, read_object
from mooring.modelstore.convert.wordpiece import read_wordpiece

if TYPE_CHECKING:
    import numpy as np

Dtype = Literal["f16", "f32"]

_EMBEDDERS = ("BertModel", "BertForMaskedLM", "BertForPreTraining")
_CROSS_ENCODER = "BertForSequenceClassification"
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_SIZES = (
    "vocab_size",
    "max_position_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
# Not part of the encoder: the buffer of positions and the heads of pre-training.
_NOT_THE_ENCODER = ("embeddings.position_ids", "cls.predictions.", "cls.seq_relationship.")
# llama.cpp reads position and segment rows as float32; a head of a few rows is not worth rounding.
_ALWAYS_F32 = ("position_embd", "token_types", "cls")
_PREFIXES = ("bert.", "model.")


@dataclass(frozen=True, slots=True)
class _Encoder:
    config: dict[str, Any]
    folder: Path

    @property
    def ranks(self) -> bool:
        return bool(self.config.get("architectures") == [_CROSS_ENCODER])


def convert_bert(folder: Path, out: Path, *, dtype: Dtype = "f16") -> None:
    """Writes ``folder`` (config.json, model.safetensors, tokenizer files, 1_Pooling/config.json) to ``out``.

    ``dtype`` is that of the matrices; vectors and lookup tables of positions and segments stay float32.
    A failed conversion leaves no file at ``out``. Raises InvalidModelFile for anything it does not know:
    another architecture or activation, a pooling that llama.cpp lacks, a tensor without a place.
    """
    encoder = _read_encoder(folder)
    pooling = "rank" if encoder.ranks else _pooling(folder)
    try:
        _write(encoder, out, dtype, pooling)
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def _read_encoder(folder: Path) -> _Encoder:
    config = read_object(folder / "config.json") or {}
    lacking = [key for key in _SIZES if not isinstance(config.get(key), int)]
    if lacking:
        raise InvalidModelFile(
            f"{folder / 'config.json'} does not give {', '.join(lacking)}. Download the whole folder of the model."
        )
    names = config.get("architectures") or ["BertModel"]
    if config.get("model_type", "bert") != "bert" or names[0] not in (*_EMBEDDERS, _CROSS_ENCODER):
        raise InvalidModelFile(
            f"{folder}: {', '.join(names)} cannot be converted; only BertModel and {_CROSS_ENCODER} can. "
            f"Pull a GGUF of this model instead."
        )
    labels = len(config.get("id2label") or ()) or config.get("num_labels", 2)
    if names[0] == _CROSS_ENCODER and labels != 1:
        raise InvalidModelFile(
            f"{folder} classifies into {labels} labels; reranking needs a cross-encoder with one. "
            f"Pull a reranker such as bge-reranker instead."
        )
    if config.get("hidden_act", "gelu") not in _GELU:
        raise InvalidModelFile(
            f"{folder}: activation {config['hidden_act']!r} is not BERT's gelu, and llama.cpp has no other. "
            f"Pull another embedding model."
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InvalidModelFile(
            f"{folder}: positions are {config['position_embedding_type']!r}, and llama.cpp's BERT only knows "
            f"absolute ones. Pull another embedding model."
        )
    return _Encoder(config, folder)


def _pooling(folder: Path) -> str:
    """``mean``, ``cls`` or ``last``, as sentence-transformers' modules.json and Pooling config say."""
    modules = read_json(folder / "modules.json") or []
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: module["path"] for module in modules}
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise InvalidModelFile(
            f"{folder} ends in a {', '.join(sorted(unknown))} layer, which llama.cpp's BERT does not have. "
            f"Pull another embedding model."
        )
    path = folder / (kinds.get("Pooling") or "1_Pooling") / "config.json"
    if not path.is_file():
        return "mean"
    return _pooling_mode(path)


def _pooling_mode(path: Path) -> str:
    config = read_object(path) or {}
    on = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    names = [str(config["pooling_mode"])] if "pooling_mode" in config else on
    known = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
        "mean": "mean",
        "cls": "cls",
        "lasttoken": "last",
    }
    if len(names) != 1 or names[0] not in known:
        raise InvalidModelFile(
            f"{path}: pooling {' + '.join(names) or 'none'} is not one of mean, cls, last token. "
            f"Pull another embedding model."
        )
    return known[names[0]]


def _write(encoder: _Encoder, out: Path, dtype: Dtype, pooling: str) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(out, "bert")
    try:
        _write_metadata(writer, encoder, dtype, pooling)
        for name, array in _tensors(encoder):
            short = array.ndim == 1 or name.startswith(_ALWAYS_F32)
            writer.add_tensor(name, array if short or dtype == "f32" else array.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _write_metadata(writer: Any, encoder: _Encoder, dtype: Dtype, pooling: str) -> None:
    import gguf

    config = encoder.config
    writer.add_type("model")
    writer.add_name(Path(str(config.get("_name_or_path") or encoder.folder.name)).name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if dtype == "f16" else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-12))
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType[pooling.upper()])
    writer.add_token_type_count(config.get("type_vocab_size", 2))
    read_wordpiece(encoder.folder).write(writer, config["vocab_size"])
    if encoder.ranks:
        # [CLS] query [SEP] document [SEP]: one [SEP] between, which llama.cpp writes as the end of the query.
        writer.add_add_bos_token(True)
        writer.add_add_eos_token(True)
        writer.add_add_sep_token(False)


def _tensors(encoder: _Encoder) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    """(GGUF name, float32 array) of every tensor that the encoder, and its head if it ranks, is made of."""
    import gguf

    places = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, encoder.config["num_hidden_layers"])
    seen = set()
    for name, array in _read_safetensors(encoder.folder):
        bare = next((name.removeprefix(p) for p in _PREFIXES if name.startswith(p)), name)
        if bare.startswith(_NOT_THE_ENCODER) or (bare.startswith("pooler.") and not encoder.ranks):
            continue
        place = _head_name(bare) if encoder.ranks else None
        place = place or places.get_name(bare, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise InvalidModelFile(f"{encoder.folder}: tensor {name!r} has no place in llama.cpp's BERT.")
        if encoder.ranks and place == "token_types.weight":
            _refuse_segments(encoder, array)
        seen.add(place)
        yield place, array
    missing = {"token_embd.weight", "position_embd.weight", "token_types.weight"} - seen
    if encoder.ranks:
        missing |= {"cls.weight", "cls.output.weight"} - seen
    if missing:
        raise InvalidModelFile(
            f"{encoder.folder} lacks {', '.join(sorted(missing))}. Download the whole folder of the model."
        )


def _refuse_segments(encoder: _Encoder, rows: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """llama.cpp adds segment row 0 at every token, also at the document's; measured, the order is then wrong.

    ``rows``: (segments, hidden).
    """
    if len(rows) > 1 and abs(rows[1] - rows[0]).max() > 1e-6:
        raise InvalidModelFile(
            f"{encoder.folder} tells query and document apart by segment embeddings, which llama.cpp does not "
            f"apply: its ranking would be wrong. Pull a reranker without them, such as bge-reranker-v2-m3."
        )


def _head_name(name: str) -> str | None:
    """Where llama.cpp's rank pooling wants the head: output(tanh(cls(x))), as BERT's pooler and classifier."""
    for theirs, ours in (("pooler.dense.", "cls."), ("classifier.", "cls.output.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return None


def _read_safetensors(folder: Path) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[np.float32]]]]:
    from safetensors import SafetensorError, deserialize

    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InvalidModelFile(f"{folder} has no model.safetensors. Pickled weights are not read.")
    for file in files:
        try:
            tensors = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            raise InvalidModelFile(f"{file} is damaged ({error}). Download the model again.") from error
        for name, tensor in sorted(tensors, key=lambda item: str(item[0])):  # the same digest every time
            yield name, _as_float32(file, name, tensor)


def _as_float32(file: Path, name: str, tensor: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    import numpy as np

    data, kind = tensor["data"], tensor["dtype"]
    if kind == "BF16":  # the upper half of a float32
        flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    elif kind in ("F16", "F32", "I64"):
        flat = np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "I64": "<i8"}[kind]).astype(np.float32)
    else:
        raise InvalidModelFile(f"{file}: tensor {name!r} is {kind}; only F32, F16 and BF16 are read.")
    return flat.reshape(tensor["shape"])
