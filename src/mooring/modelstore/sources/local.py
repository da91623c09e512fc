"""``file:PATH``, or a path by itself: a GGUF file or a folder of safetensors, used where it lies."""

from __future__ import annotations

from pathlib import Path

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import InvalidParameter
from mooring.modelstore.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from mooring.modelstore.sources.base import Listing, local_name, name_part


class LocalSource:
    def __init__(self, egress: Egress, settings: Settings) -> None:
        pass

    async def resolve(self, ref: str) -> Listing:
        path = Path(ref.removeprefix("//")).expanduser().resolve()
        if not path.exists():
            raise InvalidParameter("model", f"there is no file or folder {path}")
        if path.is_dir():
            folder = name_part(path.name.lower())
            name = ModelName.of(DEFAULT_HOST, DEFAULT_NAMESPACE, folder, DEFAULT_TAG)
        else:
            name = local_name(path.name)
        return Listing(source=f"file:{path}", suggested_name=name, reference=path)
