"""Whether a safetensors model is one that ``convert.bert`` turns into a GGUF."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from mooring.egress import Egress
from mooring.modelstore.gather import RemoteFile
from mooring.modelstore.sources.base import LocalFile, call


async def is_convertible(egress: Egress, local: Sequence[LocalFile], remote: Sequence[RemoteFile]) -> bool:
    """Looks at the listed config.json, wherever it is. Raises SourceError."""
    for here in local:
        if here.filename == "config.json":
            return is_bert(here.path.read_bytes())
    for there in remote:
        if there.filename == "config.json":
            reply = await call(
                egress, "GET", there.url, what="config.json", headers=there.headers, login=there.login
            )
            return is_bert(reply.body)
    return False


def is_bert(config: bytes) -> bool:
    """Whether this config.json is that of a BERT encoder (llama.cpp runs it, but only from a GGUF)."""
    try:
        parsed: Any = orjson.loads(config)
    except orjson.JSONDecodeError:
        return False
    return isinstance(parsed, dict) and parsed.get("model_type") == "bert"
