"""Manifests and image configs, byte for byte as Docker distribution v2 and Ollama write them.

Formats: https://distribution.github.io/distribution/spec/manifest-v2-2/ and Ollama's ``manifest`` package.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from mooring.errors import InvalidModelFile
from mooring.types import ModelInfo

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"

_OLLAMA = "application/vnd.ollama.image."
MODEL_TYPE = _OLLAMA + "model"
ADAPTER_TYPE = _OLLAMA + "adapter"
PROJECTOR_TYPE = _OLLAMA + "projector"
TEMPLATE_TYPE = _OLLAMA + "template"
SYSTEM_TYPE = _OLLAMA + "system"
PARAMS_TYPE = _OLLAMA + "params"
MESSAGES_TYPE = _OLLAMA + "messages"
LICENSE_TYPE = _OLLAMA + "license"
FILE_TYPE = "application/vnd.mooring.image.file"
"""Any file of a safetensors folder; its name is the title annotation."""

TITLE = "org.opencontainers.image.title"
_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")
_REFERENCE = "dev.mooring.reference."

Digest = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
Size = Annotated[int, msgspec.Meta(ge=0)]


def sha256_digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def find_digests(data: bytes) -> set[str]:
    """Every digest in a text."""
    return {match.decode() for match in _DIGEST.findall(data)}


@dataclass(frozen=True, slots=True)
class Reference:
    """A file outside the store that stands for a blob, as it was when it was hashed."""

    path: Path
    size: int
    mtime_ns: int


class Layer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A blob in its part: ``media_type`` says which. ``size`` is in bytes."""

    media_type: str
    digest: Digest
    size: Size
    annotations: dict[str, str] = {}

    @property
    def title(self) -> str:
        """The file name that came with the blob, with ``/`` between folders; "" where none did.

        Raises InvalidModelFile for a name that leads out of the model's folder.
        """
        title = self.annotations.get(TITLE, "")
        if title and not is_safe_title(title):
            raise InvalidModelFile(
                f"The manifest names a file '{title}', which is not a plain relative path."
            )
        return title

    @property
    def reference(self) -> Reference | None:
        """Where the content lies if it is not a blob of the store. Raises InvalidModelFile."""
        path = self.annotations.get(_REFERENCE + "path")
        if path is None:
            return None
        try:
            mtime_ns = int(self.annotations[_REFERENCE + "mtime_ns"])
        except (KeyError, ValueError) as error:
            raise InvalidModelFile("The manifest has a damaged reference; add the model again.") from error
        return Reference(Path(path), self.size, mtime_ns)

    def with_title(self, title: str) -> Layer:
        return msgspec.structs.replace(self, annotations={**self.annotations, TITLE: title})

    def with_reference(self, reference: Reference) -> Layer:
        """This layer, its content kept in a file outside the store."""
        marks = {
            _REFERENCE + "path": str(reference.path),
            _REFERENCE + "size": str(reference.size),
            _REFERENCE + "mtime_ns": str(reference.mtime_ns),
        }
        return msgspec.structs.replace(self, annotations={**self.annotations, **marks})

    def plain(self) -> Layer:
        """This layer without its reference: what leaves this machine, or comes from another."""
        kept = {key: value for key, value in self.annotations.items() if not key.startswith(_REFERENCE)}
        return msgspec.structs.replace(self, annotations=kept)


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    schema_version: int = 2
    media_type: str = MANIFEST_TYPE
    config: Layer
    layers: list[Layer]

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Raises InvalidModelFile for anything but a manifest with sha256 digests."""
        try:
            return _MANIFEST.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidModelFile(
                f"The model's manifest is damaged ({error}); remove the model and pull it again."
            ) from error

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)

    def plain(self) -> Manifest:
        """This manifest with every by-reference layer turned into an ordinary one."""
        return msgspec.structs.replace(self, layers=[layer.plain() for layer in self.layers])

    def of_type(self, media_type: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.media_type == media_type]


class RootFS(msgspec.Struct, frozen=True):
    diff_ids: list[str] = []
    type: str = "layers"


class Provenance(msgspec.Struct, frozen=True):
    """What Mooring adds to Ollama's config. ``info`` is ModelInfo as JSON."""

    source: str = ""
    info: dict[str, Any] = {}


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Ollama's ``ConfigV2``, with ``mooring`` beside it; fields that others add are not kept."""

    model_format: str = ""
    model_family: str = ""
    model_families: list[str] | None = None
    model_type: str = ""
    file_type: str = ""
    requires: str = ""
    architecture: str = "amd64"
    os: str = "linux"
    rootfs: RootFS = RootFS()
    mooring: Provenance = Provenance()

    @classmethod
    def describe(
        cls, info: ModelInfo, layers: list[Layer], *, source: str, requires: str = ""
    ) -> ImageConfig:
        return cls(
            model_format=info.format.value,
            model_family=info.architecture,
            model_families=[info.architecture],
            model_type=human_count(info.parameters),
            file_type=info.quantization,
            requires=requires,
            rootfs=RootFS(diff_ids=[layer.digest for layer in layers]),
            mooring=Provenance(source=source, info=msgspec.to_builtins(info, order="deterministic")),
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageConfig:
        """Raises InvalidModelFile."""
        try:
            return _CONFIG.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidModelFile(
                f"The model's config is damaged ({error}); pull the model again."
            ) from error

    def to_bytes(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def info(self) -> ModelInfo | None:
        """The model's description; None where another program (or another version) wrote the config."""
        try:
            return msgspec.convert(self.mooring.info, ModelInfo)
        except msgspec.ValidationError:
            return None


_MANIFEST = msgspec.json.Decoder(Manifest)
_CONFIG = msgspec.json.Decoder(ImageConfig)


def needed_blobs(raw: bytes) -> set[str]:
    """The digests that a manifest needs in the store: of a damaged one, all that can be made out."""
    try:
        manifest = Manifest.from_bytes(raw)
        layers = (manifest.config, *manifest.layers)
        return {layer.digest for layer in layers if layer.reference is None}
    except InvalidModelFile:
        return find_digests(raw)


def is_safe_title(title: str) -> bool:
    """Whether a file name from elsewhere stays inside the folder it is put in, on every system."""
    if len(title) > 512 or any(ord(letter) < 32 or letter in '\\:*?"<>|' for letter in title):
        return False
    parts = PurePosixPath(title).parts
    return "/".join(parts) == title and all(not part.startswith("..") and part != "/" for part in parts)


def human_count(count: int) -> str:
    """``134.52M``, ``8.0B``: a parameter count as Ollama's ``model_type`` shows it."""
    if count >= 1_000_000_000:
        return f"{count / 1e9:.1f}B"
    if count >= 1_000_000:
        return f"{count / 1e6:.2f}M"
    return f"{count / 1e3:.2f}K" if count >= 1_000 else str(count)
