"""``file:PATH``, or a path by itself: a GGUF file or a folder of safetensors, used where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mooring.config import Settings
from mooring.egress import Egress
from mooring.errors import InvalidParameter, PermissionDenied
from mooring.modelstore.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from mooring.modelstore.sources.base import Listing, local_name, name_part


class LocalSource:
    """With an ``egress`` for public addresses only, nothing outside ``settings.model_roots``."""

    def __init__(self, egress: Egress, settings: Settings) -> None:
        self._roots = settings.model_roots if egress.public_only else None

    async def resolve(self, ref: str) -> Listing:
        """Raises PermissionDenied, which does not tell whether the path exists; InvalidParameter."""
        path = _real_path(ref)
        if self._roots is not None and (path is None or not _is_below(path, self._roots)):
            raise PermissionDenied(
                f"{ref} is outside the server's model_roots. Add its folder there, or use the command line."
            )
        if path is None or not path.exists():
            raise InvalidParameter("model", f"there is no file or folder {path or ref}")
        if path.is_dir():
            folder = name_part(path.name.lower())
            name = ModelName.of(DEFAULT_HOST, DEFAULT_NAMESPACE, folder, DEFAULT_TAG)
        else:
            name = local_name(path.name)
        return Listing(source=f"file:{path}", suggested_name=name, reference=path)


def _real_path(ref: str) -> Path | None:
    try:
        return Path(ref.removeprefix("//")).expanduser().resolve()
    except (RuntimeError, ValueError):  # the home of nobody; a zero byte
        return None


def _is_below(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root.expanduser().resolve()) for root in roots)
