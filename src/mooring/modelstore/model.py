"""A model of the store as its users see it, read from a manifest and the blobs it names."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mooring.errors import InvalidModelFile, StoreError
from mooring.modelstore.blobs import BlobStore
from mooring.modelstore.formats import inspect_files, role_of
from mooring.modelstore.manifest import (
    ADAPTER_TYPE,
    FILE_TYPE,
    LICENSE_TYPE,
    MESSAGES_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    PROJECTOR_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    ImageConfig,
    Layer,
    Manifest,
    Reference,
    sha256_digest,
)
from mooring.modelstore.names import ModelName
from mooring.types import Capability, FileRole, ModelInfo

_TEXT_LIMIT = 16 * 1024 * 1024  # bytes; of a template, system prompt, licence, …
_ROLES = {
    MODEL_TYPE: (FileRole.WEIGHTS, "model.gguf"),
    PROJECTOR_TYPE: (FileRole.PROJECTOR, "mmproj.gguf"),
    ADAPTER_TYPE: (FileRole.ADAPTER, "adapter.gguf"),
}


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model. ``path`` is a blob of the store, or with ``reference`` a file outside it."""

    role: FileRole
    path: Path
    digest: str
    size: int
    filename: str
    reference: Reference | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of the store. ``digest`` is its manifest's, ``size`` in bytes, ``modified_at`` in epoch ms.

    ``template`` is what the manifest carries (a Go template where Ollama made it); the Jinja template that
    engines render is ``info.chat_template``.
    """

    name: ModelName
    digest: str
    info: ModelInfo
    files: tuple[ModelFile, ...]
    source: str
    size: int
    modified_at: int
    parameters: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    template: str = ""
    license: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    requires: str = ""

    @property
    def weights(self) -> ModelFile:
        """The file that holds the weights, or the first of them. Raises StoreError if there is none."""
        for file in self.files:
            if file.role is FileRole.WEIGHTS:
                return file
        raise StoreError(f"Model '{self.name}' has no weights; pull it again.")

    @property
    def projector(self) -> ModelFile | None:
        return next((file for file in self.files if file.role is FileRole.PROJECTOR), None)

    @property
    def adapters(self) -> tuple[ModelFile, ...]:
        return tuple(file for file in self.files if file.role is FileRole.ADAPTER)

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.info.capabilities


def read_model(blobs: BlobStore, name: ModelName, raw: bytes, modified_at: int) -> Model:
    """Build the Model of the manifest ``raw``. Raises InvalidModelFile, StoreError if blobs are missing."""
    manifest = Manifest.from_bytes(raw)
    config = ImageConfig.from_bytes(_read(blobs, manifest.config))
    return Model(
        name=name,
        digest=sha256_digest(raw),
        info=config.info or describe(blobs, manifest.layers),
        files=model_files(blobs, manifest.layers),
        source=config.mooring.source,
        size=manifest.config.size + sum(layer.size for layer in manifest.layers),
        modified_at=modified_at,
        parameters=_parameters(blobs, manifest),
        system=_text(blobs, manifest, SYSTEM_TYPE),
        template=_text(blobs, manifest, TEMPLATE_TYPE),
        license=_text(blobs, manifest, LICENSE_TYPE),
        messages=_messages(blobs, manifest),
        requires=config.requires,
    )


def portable(blobs: BlobStore, raw: bytes) -> tuple[bytes, bytes]:
    """The manifest ``raw`` and its config without what only means something on this machine: paths.

    Raises InvalidModelFile, StoreError if the config is missing.
    """
    manifest = Manifest.from_bytes(raw)
    config = _read(blobs, manifest.config)
    read = ImageConfig.from_bytes(config)
    local = read.mooring.source.startswith("file:")
    if not local and all(layer.reference is None for layer in manifest.layers):
        return raw, config
    if local:
        config = replace(read, mooring=replace(read.mooring, source="")).to_bytes()
    stored = Layer(manifest.config.media_type, sha256_digest(config), len(config))
    return replace(manifest.plain(), config=stored).to_bytes(), config


def model_files(blobs: BlobStore, layers: list[Layer]) -> tuple[ModelFile, ...]:
    """The layers that are files, each under a name of its own.

    Raises InvalidModelFile for names or references that are not sound.
    """
    files: list[ModelFile] = []
    taken: set[str] = set()
    for layer in layers:
        if layer.media_type == FILE_TYPE:
            if not layer.title or layer.title.casefold() in taken:
                raise InvalidModelFile(
                    f"The manifest has two files '{layer.title}', or one without a name; pull the model again."
                )
            role, filename = role_of(layer.title), layer.title
        elif layer.media_type in _ROLES:
            role, default = _ROLES[layer.media_type]
            filename = _unique(layer.title or default, taken)
        else:
            continue
        taken.add(filename.casefold())
        reference = layer.reference
        path = reference.path if reference else blobs.path(layer.digest)
        files.append(ModelFile(role, path, layer.digest, layer.size, filename, reference))
    return tuple(files)


def _unique(filename: str, taken: set[str]) -> str:
    names = itertools.chain([filename], (f"{number}-{filename}" for number in itertools.count(2)))
    return next(name for name in names if name.casefold() not in taken)


def describe(blobs: BlobStore, layers: list[Layer]) -> ModelInfo:
    """Read what the model's files say of it. Raises InvalidModelFile for damaged files, StoreError for missing."""
    files = model_files(blobs, layers)
    if not files:
        raise InvalidModelFile(
            "The model has no files: only a remote or damaged manifest; pull another model."
        )
    extra = {FileRole.PROJECTOR, FileRole.ADAPTER}
    base = {file.filename: file.path for file in files if file.role not in extra}
    try:
        info = inspect_files(base or {files[0].filename: files[0].path})
    except FileNotFoundError as error:
        raise StoreError(
            f"The model's file {error.filename} is missing; pull or add the model again."
        ) from error
    if any(file.role is FileRole.PROJECTOR for file in files):
        return dataclasses.replace(info, capabilities=info.capabilities | {Capability.VISION})
    return info


def _read(blobs: BlobStore, layer: Layer) -> bytes:
    if layer.size > _TEXT_LIMIT:
        raise InvalidModelFile(
            f"A text of the model is {layer.size:,} bytes long; at most {_TEXT_LIMIT:,} are."
        )
    try:
        return blobs.path(layer.digest).read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"The blob {layer.digest} is missing; pull the model again.") from error


def _text(blobs: BlobStore, manifest: Manifest, media_type: str) -> str:
    texts = [_read(blobs, layer).decode(errors="replace") for layer in manifest.of_type(media_type)]
    return "\n\n".join(texts)


def _json(blobs: BlobStore, layer: Layer) -> Any:
    try:
        return json.loads(_read(blobs, layer))
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"The blob {layer.digest} is not JSON; pull the model again.") from error


def _parameters(blobs: BlobStore, manifest: Manifest) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in manifest.of_type(PARAMS_TYPE):
        parameters = _json(blobs, layer)
        if not isinstance(parameters, dict):
            raise InvalidModelFile("The model's parameters are not a JSON object; pull the model again.")
        merged |= parameters
    return merged


def _messages(blobs: BlobStore, manifest: Manifest) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for layer in manifest.of_type(MESSAGES_TYPE):
        messages = _json(blobs, layer)
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise InvalidModelFile("The model's messages are not a JSON list; pull the model again.")
        found += [{str(key): str(value) for key, value in message.items()} for message in messages]
    return found
