"""``mooring create``: a model of the store from a Modelfile."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mooring.errors import InvalidParameter, ModelNotFound
from mooring.modelstore.formats import folder_files, inspect
from mooring.modelstore.formats.capabilities import capabilities_of
from mooring.modelstore.manifest import (
    ADAPTER_TYPE,
    FILE_TYPE,
    LICENSE_TYPE,
    MESSAGES_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    PROJECTOR_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Layer,
    Manifest,
)
from mooring.modelstore.model import Model
from mooring.modelstore.modelfile import Modelfile, parse_modelfile, render_modelfile
from mooring.modelstore.names import ModelName
from mooring.modelstore.references import reference_layers
from mooring.modelstore.store import ModelStore
from mooring.types import Capability, ModelFormat, ModelInfo, ProgressFn, ignore_progress

__all__ = ["Modelfile", "create", "parse_modelfile", "render_modelfile"]


@dataclass(slots=True)
class _Draft:
    """The model as it grows. ``base`` is the model of the store that it starts from, if one is."""

    layers: list[Layer] = field(default_factory=list)
    info: ModelInfo | None = None
    source: str = ""
    base: Model | None = None

    def set(self, store: ModelStore, media_type: str, texts: list[str]) -> None:
        """Replace the layers of a type; empty texts make none."""
        self.layers = [layer for layer in self.layers if layer.media_type != media_type]
        self.layers += [store.blobs.add_bytes(text.encode(), media_type) for text in texts if text]


def create(
    store: ModelStore,
    name: str | ModelName,
    modelfile: str | Modelfile,
    *,
    base_dir: Path,
    progress: ProgressFn = ignore_progress,
    by_reference: bool = False,
) -> Model:
    """Make a model. ``base_dir`` is what the Modelfile's relative paths start from.

    Local files are copied into the store, or with ``by_reference`` used where they lie. Raises InvalidParameter
    that names the line or command, ModelNotFound for an unknown FROM, InvalidModelFile, DiskFull.
    """
    parsed = parse_modelfile(modelfile) if isinstance(modelfile, str) else modelfile
    maker = _Maker(store, base_dir, progress, by_reference)
    with contextlib.ExitStack() as held:
        draft = maker.start(parsed.bases[0], held)
        for base in parsed.bases[1:]:
            maker.add_projector(draft, base)
        for adapter in parsed.adapters:
            maker.add_adapter(draft, adapter)
        info = _with_template(store, draft, parsed.template)
        _add_texts(store, draft, parsed)
        requires = parsed.requires or (draft.base.requires if draft.base else "")
        return store.publish(name, draft.layers, source=draft.source, info=info, requires=requires)


@dataclass(frozen=True, slots=True)
class _Maker:
    store: ModelStore
    base_dir: Path
    progress: ProgressFn
    by_reference: bool

    def start(self, base: str, held: contextlib.ExitStack) -> _Draft:
        """What FROM names: a path if it looks like one or is one, else a model of the store."""
        path = self._path(base)
        if _looks_like_path(base) or (path.exists() and not self._known(base)):
            return self._from_path(path)
        try:
            model = self.store.get(base)
        except ModelNotFound as error:
            hint = f"Run `mooring pull {base}` first, or write a path as in FROM ./model.gguf."
            raise ModelNotFound(base, error.nearest, hint=hint) from error
        held.enter_context(self.store.use(model))
        layers = Manifest.from_bytes(self.store.manifest(model.name)).layers
        return _Draft([*layers], model.info, model.source, model)

    def _from_path(self, path: Path) -> _Draft:
        info = inspect(path)
        if info.format is ModelFormat.ADAPTER:
            raise InvalidParameter(
                "modelfile", f"FROM {path} is an adapter; name its model there, and it in ADAPTER"
            )
        if path.is_dir():
            layers = self._add(folder_files(path), FILE_TYPE)
        elif info.format is ModelFormat.SAFETENSORS:
            raise InvalidParameter(
                "modelfile", f"FROM {path} is one file of a model; name its folder {path.parent}"
            )
        else:
            layers = self._add({path.name: path}, MODEL_TYPE)
        return _Draft(layers, info, f"file:{path}")

    def add_projector(self, draft: _Draft, base: str) -> None:
        path = self._path(base)
        if inspect(path).capabilities != {Capability.VISION}:
            raise InvalidParameter(
                "modelfile", f"FROM {base} is a second model; only a projector may follow the first"
            )
        draft.layers += self._add({path.name: path}, PROJECTOR_TYPE)
        assert draft.info is not None, "a draft starts with a model"
        draft.info = replace(draft.info, capabilities=draft.info.capabilities | {Capability.VISION})

    def add_adapter(self, draft: _Draft, adapter: str) -> None:
        path = self._path(adapter)
        info = inspect(path)
        assert draft.info is not None, "a draft starts with a model"
        if info.format is not ModelFormat.ADAPTER or path.is_dir():
            raise InvalidParameter(
                "modelfile",
                f"ADAPTER {adapter} is not a LoRA adapter as one GGUF file; "
                f"llama.cpp's convert_lora_to_gguf.py makes one of a PEFT folder",
            )
        if draft.info.format is not ModelFormat.GGUF or info.architecture != draft.info.architecture:
            raise InvalidParameter(
                "modelfile",
                f"ADAPTER {adapter} is for {info.architecture} models in GGUF, but FROM is "
                f"{draft.info.architecture} in {draft.info.format.value}",
            )
        draft.layers += self._add({path.name: path}, ADAPTER_TYPE)

    def _add(self, files: dict[str, Path], media_type: str) -> list[Layer]:
        if self.by_reference:
            return reference_layers(files, media_type, self.progress)
        add = self.store.blobs.add_file
        return [add(path, media_type, self.progress).with_title(title) for title, path in files.items()]

    def _path(self, text: str) -> Path:
        return (self.base_dir / Path(text).expanduser()).resolve()

    def _known(self, name: str) -> bool:
        try:
            self.store.get(name)
        except (ModelNotFound, InvalidParameter):
            return False
        return True


def _looks_like_path(text: str) -> bool:
    return (
        text.startswith((".", "/", "~", "\\"))
        or text[1:2] == ":"
        or text.lower().endswith((".gguf", ".safetensors"))
    )


def _with_template(store: ModelStore, draft: _Draft, template: str | None) -> ModelInfo:
    """Settle TEMPLATE. A Jinja template replaces the model's own; a Go template may only repeat the base's."""
    info = draft.info
    assert info is not None, "a draft starts with a model"
    own = (info.chat_template, draft.base.template if draft.base else "")
    if template is None or not template.strip() or template in own:
        return info
    if "{%" not in template:
        raise InvalidParameter(
            "modelfile",
            "TEMPLATE differs from the model's own, and Go templates are not supported yet; leave TEMPLATE out "
            "to use the model's own template, or write it in Jinja",
        )
    _check_jinja(template)
    draft.set(store, TEMPLATE_TYPE, [template])
    found = capabilities_of(causal=info.causal, pooling=info.pooling, chat_template=template)
    kept = info.capabilities & {Capability.VISION}
    return replace(info, chat_template=template, capabilities=found | kept)


def _check_jinja(template: str) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.sandbox import SandboxedEnvironment

    try:
        SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError as error:
        raise InvalidParameter("modelfile", f"TEMPLATE, its line {error.lineno}: {error.message}") from error


def _add_texts(store: ModelStore, draft: _Draft, parsed: Modelfile) -> None:
    if parsed.parameters:
        parameters: dict[str, Any] = {**(draft.base.parameters if draft.base else {}), **parsed.parameters}
        draft.set(store, PARAMS_TYPE, [json.dumps(parameters)])
    if parsed.system is not None:
        draft.set(store, SYSTEM_TYPE, [parsed.system])
    if parsed.messages:
        draft.set(store, MESSAGES_TYPE, [json.dumps(parsed.messages)])
    if parsed.licenses:
        draft.set(store, LICENSE_TYPE, parsed.licenses)
