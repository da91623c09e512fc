"""Loading: one place for the worker process and for ``LLM``."""

from __future__ import annotations

from typing import Any

import xllamacpp as xlc

from mooring.engines.base import WorkerSpec
from mooring.engines.llamacpp.params import build_params, check_files
from mooring.errors import InvalidModelFile


def load(spec: WorkerSpec) -> Any:
    """A running ``xllamacpp.Server``. Holds the interpreter lock until the weights are loaded.

    Raises BrokenReference, InvalidModelFile or InvalidParameter.
    """
    check_files(spec)
    try:
        return xlc.Server(build_params(spec))
    except RuntimeError as error:
        raise InvalidModelFile(
            f"llama.cpp could not load '{spec.weights}' for model '{spec.model}' ({error}): the file is damaged, "
            "its architecture is unknown to this version, or memory ran out. Its last log lines say which."
        ) from error
