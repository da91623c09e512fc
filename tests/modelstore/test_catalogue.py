from __future__ import annotations

import pytest

from mooring.config import Settings
from mooring.modelstore.catalogue import Catalogue
from mooring.modelstore.names import ModelName
from mooring.modelstore.sources import split_scheme
from mooring.modelstore.sources.choice import HubRef
from mooring.modelstore.sources.pypi import _REF
from mooring.types import Capability


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.load()


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("smollm2", "smollm2:135m"),
        ("smollm2:latest", "smollm2:135m"),
        ("SmolLM2:360M", "smollm2:360m"),
        ("all-minilm", "all-minilm:l6-v2"),
        ("all-minilm:l12", "all-minilm:l12-v2"),
        ("registry.ollama.ai/library/qwen3:4b", "qwen3:4b"),
    ],
)
def test_short_names_mean_what_people_expect(catalogue: Catalogue, asked: str, found: str) -> None:
    entry = catalogue.find(asked)
    assert entry is not None
    assert entry.name.short == found


def test_other_namespaces_and_tags_are_not_the_catalogues(catalogue: Catalogue) -> None:
    assert catalogue.find("crew/smollm2:135m") is None
    assert catalogue.find("smollm2:7b") is None


@pytest.mark.parametrize(
    ("typed", "first"),
    [("smolm2", "smollm2:135m"), ("quen3:4b", "qwen3:4b"), ("bge-rerank", "bge-reranker:v2-m3")],
)
def test_a_typing_error_shows_what_was_meant(catalogue: Catalogue, typed: str, first: str) -> None:
    assert catalogue.nearest(typed)[0] == first


def test_models_of_the_store_are_suggested_too(catalogue: Catalogue) -> None:
    assert catalogue.nearest("crew/boaty:1", also=["crew/boat:1"])[0] == "crew/boat:1"
    assert catalogue.nearest("zzzzzz") == []


def test_every_entry_is_sound(catalogue: Catalogue) -> None:
    assert len({entry.name for entry in catalogue.entries}) == len(catalogue.entries)
    for entry in catalogue.entries:
        assert entry.sources, entry.name
        assert entry.capabilities, entry.name
        assert entry.size > 10_000_000, entry.name
        for source in entry.sources:
            check_source(source)
    families = {entry.name.model for entry in catalogue.entries}
    assert families == {entry.name.model for entry in catalogue.entries if entry.default}


def check_source(source: str) -> None:
    parts = split_scheme(source)
    assert parts is not None, source
    scheme, rest = parts
    if scheme in ("hf", "modelscope"):
        HubRef.parse(rest, scheme, "main")
    elif scheme == "ollama":
        assert ModelName.parse(rest).tag != "latest", source
    else:
        match = _REF.fullmatch(rest)
        assert match is not None, source
        assert match["version"], f"{source} is not pinned"


def test_the_defaults_of_a_fresh_install_come_from_pypi(catalogue: Catalogue) -> None:
    chat, embedding = catalogue.find("smollm2"), catalogue.find("all-minilm")
    assert chat is not None
    assert embedding is not None
    assert chat.sources[0].startswith("pypi:")
    assert embedding.sources[0].startswith("pypi:")
    assert Capability.EMBEDDING in embedding.capabilities
    assert Settings().sources.pypi_index == "https://pypi.org"
