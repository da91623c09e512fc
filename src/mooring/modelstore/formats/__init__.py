"""The formats of model files: what they are, and what they say of their model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mooring.errors import InvalidModelFile
from mooring.modelstore.formats.gguf import MAGIC, GGUFHeader, TensorInfo, read_gguf
from mooring.modelstore.formats.gguf_info import gguf_info
from mooring.modelstore.formats.hf import folder_files, hf_info, is_model_file, role_of, select_weights
from mooring.modelstore.formats.safetensors import read_safetensors
from mooring.types import ModelInfo

__all__ = [
    "GGUFHeader",
    "TensorInfo",
    "folder_files",
    "inspect",
    "inspect_files",
    "is_model_file",
    "read_gguf",
    "read_safetensors",
    "role_of",
    "select_weights",
]


def inspect(path: Path) -> ModelInfo:
    """Describe a GGUF file, a safetensors file (with what lies beside it), or a Hugging Face folder.

    Raises InvalidModelFile.
    """
    if not path.exists():
        raise InvalidModelFile(f"There is no file or folder {path}; check the path.")
    if path.is_dir():
        return inspect_files(folder_files(path))
    if path.suffix == ".safetensors":
        return inspect_files(folder_files(path.parent))
    return inspect_files({path.name: path})


def inspect_files(files: Mapping[str, Path]) -> ModelInfo:
    """Describe a model from its files: name within the model's folder → where it lies. Raises InvalidModelFile.

    A GGUF file is told by its first bytes, since a blob has no suffix.
    """
    if len(files) == 1 or not any(name.endswith(".safetensors") for name in files):
        for name, path in files.items():
            if _is_gguf(path):
                return gguf_info(read_gguf(path))
            if not name.endswith(".safetensors"):
                raise InvalidModelFile(
                    f"{name} is neither GGUF nor safetensors. Mooring runs .gguf files and folders of safetensors; "
                    f"pickled weights (.bin, .pt) are refused because loading them can run code."
                )
    return hf_info(files)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
