"""llama.cpp by xllamacpp: the engine for GGUF, on CPU and GPU. Only ``worker`` imports xllamacpp."""

from mooring.engines.base import EngineDef
from mooring.engines.llamacpp.dialect import LlamaCppDialect
from mooring.types import Capability, ModelFormat

ENGINE = EngineDef(
    name="llamacpp",
    worker_module="mooring.engines.llamacpp.worker",
    dialect=LlamaCppDialect(),
    formats=frozenset({ModelFormat.GGUF}),
    capabilities=frozenset(Capability),
    native_n=False,
)
