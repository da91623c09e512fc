"""Where models come from: one module per source, loaded by its dotted name when a ref asks for it."""

from __future__ import annotations

import importlib

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import InvalidParameter
from mooring.modelstore.sources.base import Listing, Source

SOURCES = {
    "pypi": "mooring.modelstore.sources.pypi:PypiSource",
    "hf": "mooring.modelstore.sources.huggingface:HuggingFaceSource",
    "modelscope": "mooring.modelstore.sources.modelscope:ModelScopeSource",
    "ollama": "mooring.modelstore.sources.oci:OciSource",
    "https": "mooring.modelstore.sources.https:HttpsSource",
    "http": "mooring.modelstore.sources.https:HttpsSource",
    "file": "mooring.modelstore.sources.local:LocalSource",
}


def split_scheme(ref: str) -> tuple[str, str] | None:
    """``("hf", "org/repo")`` of ``hf:org/repo``; None for what has no scheme of a source."""
    scheme, colon, rest = ref.partition(":")
    return (scheme.lower(), rest) if colon and scheme.lower() in SOURCES else None


async def resolve(ref: str, egress: Egress, settings: Settings) -> Listing:
    """What ``ref`` (``scheme:rest``) stands for now.

    Raises InvalidParameter for a ref of the wrong form, SourceError, OfflineError.
    """
    parts = split_scheme(ref)
    if parts is None:
        raise InvalidParameter("model", f"'{ref}' names no source; known are {', '.join(SOURCES)}")
    module, _, name = SOURCES[parts[0]].partition(":")
    source: Source = getattr(importlib.import_module(module), name)(egress, settings)
    return await source.resolve(parts[1] if parts[0] not in ("http", "https") else ref)


__all__ = ["SOURCES", "Listing", "Source", "resolve", "split_scheme"]
