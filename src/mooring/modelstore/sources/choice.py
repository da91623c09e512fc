"""Which files of a hub's repository make the model that a ref asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from mooring.errors import InvalidParameter, SourceError
from mooring.modelstore.formats import is_model_file, select_weights
from mooring.modelstore.manifest import FILE_TYPE, MODEL_TYPE, PROJECTOR_TYPE
from mooring.modelstore.names import ModelName
from mooring.modelstore.sources.base import name_part, quantization_of, split_parts

# The balance of size and quality most people want comes first.
_PREFERRED = (
    "Q4_K_M",
    "Q4_0",
    "Q4_K_S",
    "Q4_1",
    "MXFP4",
    "Q5_K_M",
    "Q5_0",
    "Q6_K",
    "Q8_0",
    "F16",
    "BF16",
    "F32",
)
_PROJECTOR_PREFERRED = ("F16", "Q8_0", "BF16", "F32")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_REF = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^:]+))?(?::(?P<file>.+))?")


@dataclass(frozen=True, slots=True)
class HubRef:
    """``org/repo[@revision][:file-or-quantisation]``."""

    repo: str
    revision: str
    file: str

    @classmethod
    def parse(cls, text: str, scheme: str, default_revision: str) -> HubRef:
        """Raises InvalidParameter."""
        match = _REF.fullmatch(text)
        if match is None:
            raise InvalidParameter(
                "model", f"'{scheme}:{text}' is not {scheme}:org/repo[@revision][:file-or-quantisation]"
            )
        return cls(match["repo"], match["revision"] or default_revision, match["file"] or "")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; ``size`` in bytes, ``sha256`` in hex, where the hub tells them."""

    path: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen files with their layer types, and a tag that tells this choice from others."""

    files: tuple[tuple[HubFile, str], ...]
    tag: str

    @property
    def is_gguf(self) -> bool:
        return any(media_type == MODEL_TYPE for _, media_type in self.files)

    def name(self, host: str, repo: str) -> ModelName:
        """``host/org/repo:tag``, as Ollama names what it takes from a hub."""
        organisation, _, model = repo.partition("/")
        return ModelName.of(host, name_part(organisation).replace(".", "-"), name_part(model), self.tag)


def choose(files: Sequence[HubFile], wanted: str, repo: str) -> Choice:
    """The GGUF that ``wanted`` (a file's name, or a quantisation) names, or the best one, with its projector;
    else the safetensors and what belongs to them.

    Raises SourceError when nothing fits, saying what there is; pickled weights and split GGUFs by name.
    """
    ggufs = [file for file in files if file.path.endswith(".gguf") and "imatrix" not in file.path.lower()]
    projectors = [file for file in ggufs if "mmproj" in PurePosixPath(file.path).name.lower()]
    weights = [file for file in ggufs if file not in projectors]
    if not weights and not wanted:
        return _safetensors(files, repo)
    chosen = _named(weights, wanted, repo) if wanted else _best(weights, repo)
    if (parts := split_parts(chosen.path)) > 1:
        raise SourceError(
            f"{chosen.path} of {repo} is one of {parts} parts of a split GGUF, which is not supported. "
            f"Choose another of: {_offer(weights)}; or join the parts with llama-gguf-split --merge."
        )
    picked = [(chosen, MODEL_TYPE)]
    if projectors:
        picked.append((min(projectors, key=lambda file: _rank(file, _PROJECTOR_PREFERRED)), PROJECTOR_TYPE))
    return Choice(tuple(picked), name_part(quantization_of(chosen.path) or "latest"))


def _named(weights: list[HubFile], wanted: str, repo: str) -> HubFile:
    exact = [f for f in weights if wanted.lower() in (f.path.lower(), PurePosixPath(f.path).name.lower())]
    quantization = wanted.upper().replace("FP16", "F16").replace("FP32", "F32")
    matching = exact or [f for f in weights if quantization_of(f.path) == quantization]
    whole = [f for f in matching if split_parts(f.path) == 1] or matching[:1]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise SourceError(f"Several files of {repo} match '{wanted}'; name one: {_offer(whole, full=True)}.")
    raise SourceError(f"{repo} has no GGUF '{wanted}'. There are: {_offer(weights) or 'none'}.")


def _best(weights: list[HubFile], repo: str) -> HubFile:
    whole = [file for file in weights if split_parts(file.path) == 1] or weights
    best = min(whole, key=lambda file: _rank(file, _PREFERRED))
    equal = [file for file in whole if _rank(file, _PREFERRED)[0] == _rank(best, _PREFERRED)[0]]
    if len(equal) > 1 and split_parts(best.path) == 1:
        raise SourceError(f"{repo} holds several models; name one: {_offer(whole, full=True)}.")
    return best


def _rank(file: HubFile, preferred: tuple[str, ...]) -> tuple[int, str]:
    quantization = quantization_of(file.path)
    return (preferred.index(quantization) if quantization in preferred else len(preferred), file.path)


def _offer(files: Sequence[HubFile], *, full: bool = False) -> str:
    names = sorted({f.path if full else quantization_of(f.path) or f.path for f in files})
    return ", ".join(names[:20]) + (" …" if len(names) > 20 else "")


def _safetensors(files: Sequence[HubFile], repo: str) -> Choice:
    parts = {file.path: file for file in files if is_model_file(file.path)}
    weights = select_weights(parts)
    if not weights or ("config.json" not in parts and "adapter_config.json" not in parts):
        pickles = sorted(file.path for file in files if file.path.endswith(_PICKLES))
        if pickles:
            raise SourceError(
                f"{repo} has only pickled weights ({pickles[0]}), which can run code when opened; refused. "
                f"Look for a GGUF or safetensors version of it."
            )
        raise SourceError(f"{repo} has no GGUF and no safetensors model. Check the name.")
    chosen = [(f, FILE_TYPE) for p, f in parts.items() if not p.endswith(".safetensors") or p in weights]
    return Choice(tuple(chosen), "latest")


__all__ = ["Choice", "HubFile", "HubRef", "choose"]
