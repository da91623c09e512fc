"""The built-in catalogue: short names people ask for, and where each comes from (``catalogue.yaml``)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Self

import msgspec

from mooring.modelstore.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from mooring.types import Capability


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the catalogue. ``sources`` are refs in order of preference; ``size`` is in bytes, rounded."""

    name: ModelName
    sources: tuple[str, ...]
    size: int
    capabilities: frozenset[Capability]
    licence: str
    about: str
    default: bool
    """Whether the family's name alone, or ``:latest``, means this one."""


class Catalogue:
    """Read-only; ``entries`` keep the order of the file."""

    def __init__(self, entries: Iterable[Entry], aliases: Mapping[ModelName, ModelName]) -> None:
        self.entries = tuple(entries)
        self._by_name = {entry.name: entry for entry in self.entries}
        self._aliases = dict(aliases)

    @classmethod
    def load(cls) -> Self:
        import yaml

        text = resources.files("mooring.modelstore").joinpath("catalogue.yaml").read_text("utf-8")
        families = msgspec.convert(yaml.safe_load(text), list[_Family])
        entries = [entry for family in families for entry in family.entries()]
        aliases = {alias: name for family in families for alias, name in family.aliases()}
        return cls(entries, aliases)

    def find(self, name: str | ModelName) -> Entry | None:
        """The entry of ``qwen3:4b``, of an alias, or of a family's name alone; None where there is none."""
        wanted = ModelName.parse(name) if isinstance(name, str) else name
        return self._by_name.get(self._aliases.get(wanted, wanted))

    def nearest(self, text: str, also: Iterable[str] = ()) -> list[str]:
        """Up to three known names that look like ``text``, best first. ``also``: names of the store."""
        known: dict[str, str] = {}
        for name in (*also, *(entry.name.short for entry in self.entries)):
            known.setdefault(name.casefold(), name)
        for entry in self.entries:
            if entry.default:
                known.setdefault(entry.name.model.casefold(), entry.name.short)
        wanted = text.casefold()
        close = difflib.get_close_matches(wanted, known, n=6, cutoff=0.6)
        same_family = [name for name in known if name.startswith(wanted.partition(":")[0] + ":")]
        return list(dict.fromkeys(known[name] for name in (*close, *same_family)))[:3]


class _Tag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: int
    sources: list[str]
    aliases: list[str] = []
    capabilities: list[Capability] | None = None


class _Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    about: str
    licence: str
    capabilities: list[Capability]
    default: str
    tags: dict[str, _Tag]

    def entries(self) -> list[Entry]:
        return [
            Entry(
                name=self._name(tag),
                sources=tuple(detail.sources),
                size=detail.size,
                capabilities=frozenset(detail.capabilities or self.capabilities),
                licence=self.licence,
                about=self.about,
                default=tag == self.default,
            )
            for tag, detail in self.tags.items()
        ]

    def aliases(self) -> list[tuple[ModelName, ModelName]]:
        given = [(alias, tag) for tag, detail in self.tags.items() for alias in detail.aliases]
        return [(self._name(alias), self._name(tag)) for alias, tag in [*given, (DEFAULT_TAG, self.default)]]

    def _name(self, tag: str) -> ModelName:
        return ModelName.of(DEFAULT_HOST, DEFAULT_NAMESPACE, self.name, tag)


__all__ = ["Catalogue", "Entry"]
