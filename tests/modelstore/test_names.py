from __future__ import annotations

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.errors import InvalidParameter
from mooring.modelstore.names import ModelName


@pytest.mark.parametrize(
    ("text", "short", "path"),
    [
        ("smollm2", "smollm2:latest", "registry.ollama.ai/library/smollm2/latest"),
        ("smollm2:135m", "smollm2:135m", "registry.ollama.ai/library/smollm2/135m"),
        ("library/smollm2:135m", "smollm2:135m", "registry.ollama.ai/library/smollm2/135m"),
        ("registry.ollama.ai/library/a:b", "a:b", "registry.ollama.ai/library/a/b"),
        ("ft/base-mine:7", "ft/base-mine:7", "registry.ollama.ai/ft/base-mine/7"),
        ("hf.co/org/Model-1.5B_x:Q4_K_M", "hf.co/org/Model-1.5B_x:Q4_K_M", "hf.co/org/Model-1.5B_x/Q4_K_M"),
    ],
)
def test_a_name_is_understood_as_ollama_writes_it(text: str, short: str, path: str) -> None:
    name = ModelName.parse(text)
    assert name.short == str(name) == short
    assert name.path == PurePath(path)
    assert ModelName.parse(short) == ModelName.from_path(name.path) == name


def test_a_registry_with_a_port_is_not_taken_for_a_tag() -> None:
    name = ModelName.parse("localhost:5000/team/model")
    assert (name.host, name.namespace, name.model, name.tag) == ("localhost:5000", "team", "model", "latest")
    assert ModelName.from_path(name.path) == name


def test_case_does_not_make_two_models_of_one() -> None:
    assert ModelName.parse("SmolLM2:135M") == ModelName.parse("smollm2:135m")
    assert len({ModelName.parse("A"), ModelName.parse("a:LATEST")}) == 1
    assert ModelName.parse("SmolLM2").short == "SmolLM2:latest"


@pytest.mark.parametrize(
    "text",
    ["", "a:", ":b", "a b", "../../etc/passwd", "a/b/c/d", "a/../b", ".hidden", "a\x00", "a:b:c", "model.",
     "a%3Ab", "con", "nul.txt", "x" * 81, "modèle", "a\n", "a@sha256:00"],
)  # fmt: skip
def test_names_that_a_disk_or_registry_cannot_hold_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="model"):
        ModelName.parse(text)


@pytest.mark.parametrize("scheme", ["hf", "modelscope", "ollama", "pypi", "https", "http", "file", "HF"])
def test_a_source_in_place_of_a_name_is_told_how_to_pull_it(scheme: str) -> None:
    with pytest.raises(InvalidParameter, match="mooring pull"):
        ModelName.parse(f"{scheme}:org/repo")


@pytest.mark.parametrize("text", ["hf", "library/ollama:x", "HTTP:8080/team/model"])
def test_no_model_can_take_the_word_of_a_source(text: str) -> None:
    with pytest.raises(InvalidParameter, match="source"):
        ModelName.parse(text)


@given(st.text(max_size=40))
def test_whatever_parses_stays_inside_the_manifests_folder(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidParameter:
        return
    assert len(name.path.parts) == 4
    assert ".." not in name.path.parts
    assert ModelName.parse(name.short) == name
