"""Finding models in the store and fetching them, for the commands that work on the store itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mooring.cli.invocation import Invocation
from mooring.errors import ModelNotFound
from mooring.modelstore.catalogue import Catalogue
from mooring.modelstore.names import SOURCE_SCHEMES, ModelName
from mooring.types import Capability, ProgressFn

if TYPE_CHECKING:
    from mooring.config import Settings
    from mooring.modelstore.model import Model
    from mooring.modelstore.store import ModelStore

_PINS = (
    "==",
    "@",
    "#",
)  # what a stored source has behind the one that was asked for: version, revision, member


def is_source(text: str) -> bool:
    """Whether a text says where a model comes from (``hf:org/repo``, a path), rather than what it is called."""
    scheme, colon, _ = text.partition(":")
    return (bool(colon) and scheme.lower() in SOURCE_SCHEMES) or text.startswith(
        ("/", "./", "../", "~", ".\\")
    )


def find_model(store: ModelStore, text: str) -> Model:
    """The stored model of a name, of a catalogue name without its tag, or of the source it was pulled from.

    Raises ModelNotFound with the nearest names of store and catalogue.
    """
    if is_source(text):
        source = text if ":" in text else f"file:{Path(text).expanduser().resolve()}"
        pinned = tuple(source + mark for mark in _PINS)
        found = next((m for m in store.list() if m.source == source or m.source.startswith(pinned)), None)
        if found is None:
            raise ModelNotFound(text, hint="Nothing in the store came from there; `mooring pull` fetches it.")
        return found
    catalogue = Catalogue.load()
    try:
        return store.get(text)
    except ModelNotFound as error:
        entry = catalogue.find(text)
        if entry is not None and entry.name != ModelName.parse(text):
            return store.get(entry.name)
        stored = [model.name.short for model in store.list()]
        nearest = catalogue.nearest(text, stored)
        raise ModelNotFound(text, nearest or error.nearest) from None


def find_or_fetch(invocation: Invocation, settings: Settings, text: str, progress: ProgressFn) -> Model:
    """The stored model, pulled first if it is not here. Raises what ``find_model`` and ``fetch_model`` raise."""
    store = invocation.store()
    try:
        return find_model(store, text)
    except ModelNotFound:
        # A plain word may be a typing error: only `mooring pull` asks a registry for it.
        if not is_source(text) and Catalogue.load().find(text) is None and "/" not in text:
            raise
    return fetch_model(store, settings, text, progress=progress)


def fetch_model(
    store: ModelStore, settings: Settings, source: str, *, name: str | None = None, progress: ProgressFn
) -> Model:
    """Pull a model into the store. Raises ModelNotFound, SourceError, OfflineError, DiskFull, DigestMismatch."""
    from mooring.egress import Egress
    from mooring.modelstore.pull import pull

    async def fetch() -> Model:
        async with Egress(settings) as egress:
            return await pull(store, egress, settings, source, name=name, progress=progress)

    return asyncio.run(fetch())


def next_step(model: Model) -> str:
    """The command that a user of a new model wants next."""
    talks = {Capability.CHAT, Capability.COMPLETION} & model.capabilities
    return f"Chat: mooring run {model.name.short}" if talks else f"Serve it: mooring serve {model.name.short}"


def model_fields(model: Model) -> list[tuple[str, str]]:
    """What a person wants to know of a stored model, worded."""
    from mooring.cli.output import format_age, format_bytes, format_count

    info = model.info
    return [
        ("architecture", info.architecture),
        ("parameters", format_count(info.parameters)),
        ("quantization", info.quantization),
        ("context length", f"{info.context_length:,} tokens" if info.context_length else ""),
        ("embedding length", str(info.embedding_length or "")),
        ("format", info.format.value),
        ("capabilities", ", ".join(sorted(info.capabilities))),
        ("size", format_bytes(model.size)),
        ("source", model.source),
        ("by reference", next((str(file.path) for file in model.files if file.reference), "")),
        ("digest", model.digest),
        ("modified", format_age(model.modified_at)),
    ]


def model_json(model: Model) -> dict[str, Any]:
    """A stored model for scripts. ``modified_at`` is in epoch milliseconds, ``size`` in bytes."""
    info = model.info
    return {
        "name": model.name.short,
        "digest": model.digest,
        "size": model.size,
        "modified_at": model.modified_at,
        "source": model.source,
        "format": info.format.value,
        "architecture": info.architecture,
        "parameters": info.parameters,
        "quantization": info.quantization,
        "context_length": info.context_length,
        "embedding_length": info.embedding_length,
        "capabilities": sorted(info.capabilities),
        "by_reference": any(file.reference for file in model.files),
    }
