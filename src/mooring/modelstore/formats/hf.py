"""What a Hugging Face folder (config.json, safetensors, tokenizer files) says of its model.

Keys of config.json: https://huggingface.co/docs/transformers/main_classes/configuration; pooling:
https://sbert.net/docs/package_reference/sentence_transformer/models.html#pooling.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mooring.errors import InvalidModelFile
from mooring.modelstore.formats.capabilities import capabilities_of
from mooring.modelstore.formats.safetensors import DTYPE_BITS, SafeTensor, read_safetensors
from mooring.types import Capability, FileRole, ModelFormat, ModelInfo

_JSON_LIMIT = 64 * 1024 * 1024  # bytes
_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
_TOKENIZER = re.compile(
    r"(tokenizer.*|vocab\..*|merges\.txt|special_tokens_map\.json|added_tokens\.json|.*\.(jinja|model|tiktoken))"
)
_ENCODER = re.compile(r"(bert|xlm-roberta|mpnet|electra|deberta|distil|t5encoder|camembert|ernie$)")
_RERANKER = re.compile(r"ForSequenceClassification$")
_POOLING_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_DTYPES = {"F8_E4M3": "FP8", "F8_E5M2": "FP8"}
_ADAPTER_WEIGHTS = "adapter_model.safetensors"


def is_model_file(name: str) -> bool:
    """Whether a file of a repository, by its path there, belongs to a safetensors model.

    Weights, configuration and tokenizer do; pickles, code, other formats' exports and read-mes do not.
    """
    path = PurePosixPath(name)
    if any(part.startswith(".") for part in path.parts) or path.suffix not in _SUFFIXES:
        return False
    if len(path.parts) > 1:
        return len(path.parts) == 2 and path.name == "config.json"  # a sentence-transformers module
    return path.name not in ("requirements.txt", "README.txt", "LICENSE.txt")


def role_of(name: str) -> FileRole:
    """What a file of a safetensors model is to an engine, by its name."""
    name = PurePosixPath(name).name
    if name == _ADAPTER_WEIGHTS:
        return FileRole.ADAPTER
    if name.endswith(".safetensors"):
        return FileRole.WEIGHTS
    if _TOKENIZER.fullmatch(name):
        return FileRole.TOKENIZER
    return FileRole.CONFIG if name.endswith(".json") else FileRole.OTHER


def select_weights(names: Iterable[str]) -> set[str]:
    """The safetensors files to take of several: not the original's (``consolidated…``) beside the usual ones."""
    weights = {name for name in names if name.endswith(".safetensors")}
    usual = {name for name in weights if PurePosixPath(name).name.startswith(("model", "adapter_model"))}
    return usual or weights


def folder_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that make the model: path within the folder, with ``/`` → path.

    Raises InvalidModelFile, by name for pickled weights.
    """
    found = {
        path.relative_to(folder).as_posix(): path
        for pattern in ("*", "*/config.json")
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }
    files = {name: path for name, path in found.items() if is_model_file(name)}
    chosen = select_weights(files)
    if not chosen:
        pickles = sorted(name for name in found if PurePosixPath(name).suffix in _PICKLES)
        if pickles:
            raise InvalidModelFile(
                f"{folder} holds only pickled weights ({pickles[0]}), which can run code and are refused. "
                f"Take the model's safetensors files, or convert it with transformers' save_pretrained."
            )
        raise InvalidModelFile(
            f"{folder} holds no safetensors; a model's folder has config.json beside them."
        )
    return {n: p for n, p in files.items() if not n.endswith(".safetensors") or n in chosen}


def hf_info(files: Mapping[str, Path]) -> ModelInfo:
    """Describe a safetensors model from its files (path within the folder → path). Raises InvalidModelFile."""
    tensors = _all_tensors(files)
    if "adapter_config.json" in files:
        return _adapter(tensors)
    config = _json(files, "config.json")
    if config is None:
        raise InvalidModelFile("The model has no config.json beside its safetensors; get the whole folder.")
    quantization = config.get("quantization_config")
    quantization = quantization if isinstance(quantization, dict) else {}
    info = _model(config, _json(files, "tokenizer_config.json") or {}, files)
    return replace(
        info,
        parameters=sum(_parameters(tensor, quantization) for tensor in tensors),
        quantization=_label(tensors, quantization),
        weights_bytes=sum(tensor.nbytes for tensor in tensors),
    )


def _model(config: dict[str, Any], tokenizer: dict[str, Any], files: Mapping[str, Path]) -> ModelInfo:
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config

    def number(*keys: str) -> int:
        values = (text.get(key) for key in keys)
        return next((v for v in values if isinstance(v, int) and 0 < v < 1 << 53), 0)

    architecture = str(text.get("model_type") or config.get("model_type") or "").removesuffix("_text")
    blocks = number("num_hidden_layers", "n_layer", "num_layers")
    hidden, heads = number("hidden_size", "n_embd", "d_model"), number("num_attention_heads", "n_head")
    head = number("head_dim") or (hidden // heads if heads else 0)
    causal = not _ENCODER.search(architecture) and text.get("is_decoder") is not False
    pooling, template = _pooling(config, files), _chat_template(tokenizer, files)
    capabilities = capabilities_of(causal=causal, pooling=pooling, chat_template=template)
    if isinstance(config.get("vision_config"), dict):
        capabilities |= {Capability.VISION}
    return ModelInfo(
        format=ModelFormat.SAFETENSORS,
        architecture=architecture,
        capabilities=capabilities,
        context_length=number("max_position_embeddings", "n_positions", "max_sequence_length"),
        embedding_length=hidden,
        feed_forward_length=number("intermediate_size", "n_inner", "ffn_dim"),
        block_count=blocks,
        head_count=heads,
        head_count_kv=number("num_key_value_heads") or heads,
        key_length=head,
        value_length=head,
        kv_layers=blocks if causal else 0,
        sliding_window=number("sliding_window") if text.get("use_sliding_window", True) else 0,
        vocab_size=number("vocab_size"),
        causal=causal,
        pooling=pooling,
        chat_template=template,
    )


def _adapter(tensors: list[SafeTensor]) -> ModelInfo:
    return ModelInfo(
        format=ModelFormat.ADAPTER,
        architecture="",
        capabilities=frozenset(),
        parameters=sum(tensor.elements for tensor in tensors),
        quantization=_label(tensors, {}),
        weights_bytes=sum(tensor.nbytes for tensor in tensors),
        causal=False,
    )


def _all_tensors(files: Mapping[str, Path]) -> list[SafeTensor]:
    """The tensors of all parts. Raises InvalidModelFile if the index names a part that is not there."""
    index = _json(files, "model.safetensors.index.json") or {}
    weight_map = index.get("weight_map")
    wanted = {str(name) for name in weight_map.values()} if isinstance(weight_map, dict) else set()
    if missing := sorted(wanted - files.keys()):
        raise InvalidModelFile(
            f"The model's part {missing[0]} is missing ({len(missing)} in all); get all parts."
        )
    names = wanted or select_weights(files)
    return [tensor for name in sorted(names) for tensor in read_safetensors(files[name])]


def _chat_template(tokenizer: dict[str, Any], files: Mapping[str, Path]) -> str:
    if path := files.get("chat_template.jinja"):
        return _read(path).decode(errors="replace")
    separate = _json(files, "chat_template.json") or {}
    template = separate.get("chat_template") or tokenizer.get("chat_template")
    if isinstance(template, list):  # several by name: [{"name": "default", "template": …}, …]
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def _pooling(config: dict[str, Any], files: Mapping[str, Path]) -> str:
    names = config.get("architectures")
    labels = config.get("id2label") or config.get("label2id")
    count = (
        len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    )  # transformers' default is 2
    if isinstance(names, list) and any(_RERANKER.search(str(name)) for name in names):
        if count == 1:
            return "rank"
        raise InvalidModelFile(
            f"The model is a classifier of {count} labels; rerankers have one. Take another model."
        )
    modes = next((_json(files, n) for n in files if n.endswith("_Pooling/config.json")), None)
    return next((pooling for mode, pooling in _POOLING_MODES.items() if modes and modes.get(mode)), "")


def _parameters(tensor: SafeTensor, quantization: dict[str, Any]) -> int:
    """The weights in a tensor; integers are packed weights (GPTQ, AWQ: ``qweight``) or no weights at all."""
    if tensor.dtype[0] not in "IUB" or tensor.dtype == "BF16":
        return tensor.elements
    bits = quantization.get("bits", quantization.get("w_bit"))
    if isinstance(bits, int) and 0 < bits <= 8 and tensor.name.endswith(".qweight"):
        return tensor.elements * DTYPE_BITS[tensor.dtype] // bits
    return tensor.elements if tensor.dtype == "I8" and quantization else 0


def _label(tensors: list[SafeTensor], quantization: dict[str, Any]) -> str:
    method = quantization.get("quant_method")
    if isinstance(method, str) and method:
        return method.upper()
    weight: Counter[str] = Counter()
    for tensor in tensors:
        weight[tensor.dtype] += tensor.elements
    dtype = weight.most_common(1)[0][0] if weight else ""
    return _DTYPES.get(dtype, dtype)


def _read(path: Path) -> bytes:
    if path.stat().st_size > _JSON_LIMIT:
        raise InvalidModelFile(f"{path.name} is larger than {_JSON_LIMIT:,} bytes; get the file again.")
    return path.read_bytes()


def _json(files: Mapping[str, Path], name: str) -> dict[str, Any] | None:
    if (path := files.get(name)) is None:
        return None
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{name} is not valid JSON ({error}); get the file again.") from error
    if not isinstance(content, dict):
        raise InvalidModelFile(f"{name} is not a JSON object; get the file again.")
    return content
