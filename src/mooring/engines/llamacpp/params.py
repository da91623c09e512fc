"""WorkerSpec → xllamacpp's CommonParams. Only the worker process (and ``LLM``) imports this module."""

from __future__ import annotations

from typing import Any

import xllamacpp as xlc

from mooring.engines.base import WorkerSpec
from mooring.errors import BrokenReference, InvalidModelFile, InvalidParameter
from mooring.types import Capability

_ERRORS = 1
_SPARE_HTTP_THREADS = 8
_CONTEXT_CHECKPOINTS = 4
_POOLING = {
    "": "LLAMA_POOLING_TYPE_UNSPECIFIED",
    "none": "LLAMA_POOLING_TYPE_NONE",
    "mean": "LLAMA_POOLING_TYPE_MEAN",
    "cls": "LLAMA_POOLING_TYPE_CLS",
    "last": "LLAMA_POOLING_TYPE_LAST",
    "rank": "LLAMA_POOLING_TYPE_RANK",
}


def check_files(spec: WorkerSpec) -> None:
    """llama.cpp says only "Failed to init server", so say first which file is missing or no GGUF.

    Raises BrokenReference or InvalidModelFile.
    """
    for path in (spec.weights, *spec.adapters, *((spec.projector,) if spec.projector else ())):
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise BrokenReference(
                f"Cannot read '{path}' of model '{spec.model}' ({error.strerror}). Pull the model again, "
                "or put the file back."
            ) from error
        if magic != b"GGUF":
            raise InvalidModelFile(
                f"'{path}' of model '{spec.model}' is not a GGUF file. Pull the model again."
            )


def build_params(spec: WorkerSpec) -> Any:
    """Raises InvalidParameter on options, of which this engine has none."""
    if spec.options:
        raise InvalidParameter("options", f"llamacpp has no option {', '.join(sorted(spec.options))}")
    params = xlc.CommonParams()
    params.model.path = str(spec.weights)
    params.model_alias = {spec.model}
    if spec.projector is not None:
        params.mmproj.path = str(spec.projector)
    params.lora_adapters = [xlc.CommonAdapterLoraInfo(str(path), 1.0) for path in spec.adapters]
    if spec.chat_template:
        params.chat_template = spec.chat_template
    params.fit_params = False  # the memory model has decided
    params.n_ctx = spec.context * spec.slots
    params.n_parallel = spec.slots
    params.kv_unified = False
    params.n_gpu_layers = spec.gpu_layers
    if spec.gpu_layers == 0:  # weights that the CPU reorders would keep the mapped file resident besides
        params.load_mode = xlc.llama_load_mode.LLAMA_LOAD_MODE_NONE
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec.threads
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = _CONTEXT_CHECKPOINTS
    params.prefill_assistant = False  # a last assistant message is continued only on request
    _set_server(params, spec)
    _set_pooling(params, spec)
    return params


def _set_server(params: Any, spec: WorkerSpec) -> None:
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [spec.api_key]
    params.n_threads_http = spec.slots + _SPARE_HTTP_THREADS
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = _ERRORS


def _set_pooling(params: Any, spec: WorkerSpec) -> None:
    """An encoder reads a text in one batch, so the batch must hold a whole context."""
    if not spec.capabilities & {Capability.EMBEDDING, Capability.RERANK}:
        return
    rank = Capability.RERANK in spec.capabilities
    params.embedding = True
    params.pooling_type = getattr(xlc.llama_pooling_type, _POOLING["rank" if rank else spec.pooling])
    params.n_batch = params.n_ubatch = max(32, spec.context)
