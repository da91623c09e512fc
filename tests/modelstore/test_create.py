from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.errors import InvalidModelFile, InvalidParameter, ModelNotFound
from mooring.modelstore.create import create, parse_modelfile, render_modelfile
from mooring.modelstore.manifest import TEMPLATE_TYPE
from mooring.modelstore.store import Model, ModelStore
from mooring.types import Capability, ModelFormat
from support.tiny_models import CHAT_TEMPLATE, write_bert_folder

from .conftest import MakeGGUF

FULL = '''
# a comment
FROM ./tiny.gguf
PARAMETER temperature 0.5
parameter stop "<|end|>"
PARAMETER stop  two words
PARAMETER num_ctx 128
SYSTEM """You are
a pirate, "arr"."""
MESSAGE user Hi there
MESSAGE assistant """Ahoy!
"""
LICENSE MIT
REQUIRES 0.5.0
'''


def _create(store: ModelStore, text: str, base_dir: Path, name: str = "mine") -> Model:
    return create(store, name, text, base_dir=base_dir)


def test_a_modelfile_says_all_that_it_may_say(store: ModelStore, tiny_llama: Path) -> None:
    model = _create(store, FULL, tiny_llama.parent)
    assert model.parameters == {"temperature": 0.5, "stop": ["<|end|>", "two words"], "num_ctx": 128}
    assert model.system == 'You are\na pirate, "arr".'
    assert model.messages == [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Ahoy!\n"},
    ]
    assert (model.license, model.requires) == ("MIT", "0.5.0")
    assert model.weights.path.parent == store.blobs.folder
    assert model.weights.filename == "tiny.gguf"


def test_a_model_from_a_model_inherits_and_overrides(store: ModelStore, tiny_llama: Path) -> None:
    base = _create(store, FULL, tiny_llama.parent, "base")
    text = "FROM base\nPARAMETER temperature 0.9\nSYSTEM Be brief."
    model = _create(store, text, tiny_llama.parent)
    assert model.parameters == {**base.parameters, "temperature": 0.9}
    assert (model.system, model.messages, model.license) == ("Be brief.", base.messages, "MIT")
    assert model.weights == base.weights
    assert _create(store, 'FROM base\nSYSTEM ""', tiny_llama.parent).system == ""


def test_the_modelfile_shown_makes_the_same_model_again(store: ModelStore, tiny_llama: Path) -> None:
    model = _create(store, FULL, tiny_llama.parent)
    again = _create(store, render_modelfile(model), tiny_llama.parent, "again")
    assert (again.digest, again.parameters, again.messages) == (
        model.digest,
        model.parameters,
        model.messages,
    )


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=40))
def test_any_one_line_text_survives_a_modelfile(text: str) -> None:
    from mooring.modelstore.modelfile import _quote

    assert parse_modelfile(f"FROM x\nSYSTEM {_quote(text)}").system == text


def test_a_local_file_can_be_used_where_it_lies(store: ModelStore, tiny_llama: Path) -> None:
    model = create(store, "m", f"FROM {tiny_llama}", base_dir=Path("/"), by_reference=True)
    assert model.weights.path == tiny_llama.resolve()


def test_a_folder_of_safetensors_becomes_a_model(store: ModelStore, tmp_path: Path) -> None:
    write_bert_folder(tmp_path / "bert")
    model = _create(store, "FROM ./bert", tmp_path)
    assert model.info.format is ModelFormat.SAFETENSORS
    assert "1_Pooling/config.json" in {file.filename for file in model.files}
    with pytest.raises(InvalidParameter, match="folder"):
        _create(store, "FROM ./bert/model.safetensors", tmp_path)


def test_adapters_and_projectors_are_told_from_models(
    store: ModelStore, tmp_path: Path, make_gguf: MakeGGUF
) -> None:
    make_gguf("llama", name="base.gguf")
    make_gguf("llama", {"general.type": "adapter"}, name="lora.gguf")
    make_gguf("gemma3", {"general.type": "adapter"}, name="other.gguf")
    make_gguf("clip", name="mmproj.gguf")
    model = _create(store, "FROM ./base.gguf\nFROM ./mmproj.gguf\nADAPTER ./lora.gguf", tmp_path)
    assert model.projector is not None
    assert Capability.VISION in model.capabilities
    assert [file.filename for file in model.adapters] == ["lora.gguf"]
    for text, problem in {
        "FROM ./lora.gguf": "is an adapter",
        "FROM ./base.gguf\nFROM ./base.gguf": "only a projector",
        "FROM ./base.gguf\nADAPTER ./base.gguf": "not a LoRA adapter",
        "FROM ./base.gguf\nADAPTER ./other.gguf": "is for gemma3 models",
    }.items():
        with pytest.raises(InvalidParameter, match=problem):
            _create(store, text, tmp_path)


def test_a_go_template_that_would_be_ignored_is_refused(store: ModelStore, tiny_llama: Path) -> None:
    with pytest.raises(InvalidParameter, match="Go templates are not supported yet"):
        _create(store, "FROM ./tiny.gguf\nTEMPLATE {{ .Prompt }}", tiny_llama.parent)
    for same in ("", CHAT_TEMPLATE):
        model = _create(store, f'FROM ./tiny.gguf\nTEMPLATE """{same}"""', tiny_llama.parent)
        assert model.info.chat_template == CHAT_TEMPLATE


def test_the_go_template_that_came_with_a_model_may_stay(store: ModelStore, tiny_llama: Path) -> None:
    base = _create(store, "FROM ./tiny.gguf", tiny_llama.parent, "base")
    layers = [
        store.blobs.add_file(tiny_llama, "application/vnd.ollama.image.model"),
        store.blobs.add_bytes(b"{{ .Prompt }}", TEMPLATE_TYPE),
    ]
    store.publish("pulled", layers, source="ollama:x", info=base.info)
    model = _create(store, "FROM pulled\nTEMPLATE {{ .Prompt }}", tiny_llama.parent)
    assert model.template == "{{ .Prompt }}"


def test_a_jinja_template_replaces_the_models_own(store: ModelStore, tiny_llama: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{{ tools }}{% endif %}"
    model = _create(store, f"FROM ./tiny.gguf\nTEMPLATE {template}", tiny_llama.parent)
    assert model.info.chat_template == model.template == template
    assert Capability.TOOLS in model.capabilities
    with pytest.raises(InvalidParameter, match="TEMPLATE, its line 1"):
        _create(store, "FROM ./tiny.gguf\nTEMPLATE {% for %}", tiny_llama.parent)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no FROM"),
        ("SYSTEM x", "no FROM"),
        ("FROM", "line 1: FROM needs"),
        ("FROM x\nPARAMTER a 1", "line 2: unknown command 'PARAMTER'; did you mean PARAMETER"),
        ("FROM x\nPARAMETER temprature 1", "did you mean temperature"),
        ("FROM x\nPARAMETER num_ctx many", "needs a whole number"),
        ("FROM x\nPARAMETER temperature", "needs a number"),
        ("FROM x\nMESSAGE robot hi", "needs a role"),
        ('FROM x\n\nSYSTEM """never\nclosed', "line 3: .*never closed"),
        ("FROM x\nRENDERER y", "unknown command"),
    ],
)
def test_a_mistake_in_a_modelfile_is_told_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(InvalidParameter, match=problem):
        parse_modelfile(text)


def test_a_base_that_is_not_here_says_how_to_get_it(store: ModelStore, tiny_llama: Path) -> None:
    _create(store, "FROM ./tiny.gguf", tiny_llama.parent, "smollm2:135m")
    with pytest.raises(ModelNotFound, match=r"smollm2:135m.*mooring pull"):
        _create(store, "FROM smolm2:135m", tiny_llama.parent)
    with pytest.raises(InvalidModelFile, match="no file or folder"):
        _create(store, "FROM ./missing.gguf", tiny_llama.parent)
