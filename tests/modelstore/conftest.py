"""Small stores and small files for the tests of the model store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mooring.modelstore.store import ModelStore
from support.tiny_models import write_llama

MakeGGUF = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "tiny.gguf")


@pytest.fixture
def make_gguf(tmp_path: Path) -> MakeGGUF:
    """Writes a GGUF file of any architecture with the metadata given and two small tensors."""

    def make(
        architecture: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, tuple[int, ...]] | None = None,
        name: str = "made.gguf",
    ) -> Path:
        import gguf
        import numpy as np

        writer = gguf.GGUFWriter(tmp_path / name, architecture)
        for key, value in (metadata or {}).items():
            add = {bool: writer.add_bool, str: writer.add_string, list: writer.add_array}
            add.get(type(value), writer.add_uint32)(key, value)
        for tensor, shape in (tensors or {"token_embd.weight": (8, 4), "norm.weight": (4,)}).items():
            writer.add_tensor(tensor, np.zeros(shape, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return make
