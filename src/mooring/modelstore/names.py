"""Model names: ``[host/][namespace/]model[:tag]``, as Ollama writes them.

Source of the rules: https://docs.ollama.com/api (model names) and Ollama's ``types/model/name.go``; on top of
them, names that not every file system can hold are refused, so that a store can be copied between machines.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePath

from mooring.errors import InvalidParameter

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
SOURCE_SCHEMES = frozenset({"hf", "modelscope", "ollama", "pypi", "https", "http", "file"})

_PART = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,253}(:\d{1,5})?"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}
_DEVICE = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE
)  # what Windows cannot name a file
# Windows allows no colon in a file name, and no name part may hold a percent sign.
_COLON = "%3A" if os.name == "nt" else ":"


@dataclass(frozen=True, eq=False)
class ModelName:
    """A name of the store. Compared without regard to case; the case given is kept on disk."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read a name, filling in the defaults. Raises InvalidParameter that says which part is wrong."""
        scheme = text.partition(":")[0].lower()
        if scheme in SOURCE_SCHEMES and ":" in text:
            raise InvalidParameter(
                "model",
                f"'{text}' is a source, not a name; run `mooring pull {text}` and use the name it prints",
            )
        path, tag = text, DEFAULT_TAG
        if (colon := text.rfind(":")) > text.rfind("/"):
            path, tag = text[:colon], text[colon + 1 :]
        parts = path.split("/")
        if len(parts) > 3:
            raise InvalidParameter(
                "model", f"'{text}' has too many parts; write [host/][namespace/]model[:tag]"
            )
        host, namespace, model = ([DEFAULT_HOST, DEFAULT_NAMESPACE, ""][: 3 - len(parts)] + parts)[:3]
        return cls.of(host, namespace, model, tag)

    @classmethod
    def of(cls, host: str, namespace: str, model: str, tag: str) -> ModelName:
        """Build a name from its parts. Raises InvalidParameter."""
        for kind, part in (("host", host), ("namespace", namespace), ("model", model), ("tag", tag)):
            if not _PART[kind].fullmatch(part) or part.endswith(".") or _DEVICE.fullmatch(part):
                raise InvalidParameter(
                    "model",
                    f"'{part}' cannot be the {kind} of a model name; use letters, digits, '-', '_' and '.' "
                    f"as in [host/][namespace/]model[:tag]",
                )
        name = cls(host, namespace, model, tag)
        if (word := name.short.partition(":")[0]).lower() in SOURCE_SCHEMES:
            raise InvalidParameter("model", f"'{word}' is the word for a source; choose another name")
        return name

    @classmethod
    def from_path(cls, path: PurePath) -> ModelName:
        """The inverse of ``path``. Raises InvalidParameter for a path that no name has."""
        if len(path.parts) != 4:
            raise InvalidParameter("model", f"'{path}' is not host/namespace/model/tag")
        host, namespace, model, tag = path.parts
        return cls.of(host.replace(_COLON, ":"), namespace, model, tag)

    @property
    def path(self) -> PurePath:
        """``host/namespace/model/tag``, relative to the store's ``manifests`` folder."""
        return PurePath(self.host.replace(":", _COLON), self.namespace, self.model, self.tag)

    @property
    def short(self) -> str:
        """The shortest text that parses back to this name; the tag is always shown."""
        text = f"{self.model}:{self.tag}"
        if self.host.casefold() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{text}"
        return text if self.namespace.casefold() == DEFAULT_NAMESPACE else f"{self.namespace}/{text}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names are compared and sorted by."""
        return (self.host.casefold(), self.namespace.casefold(), self.model.casefold(), self.tag.casefold())

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, ModelName) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.short
