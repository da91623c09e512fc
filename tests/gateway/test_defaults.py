"""A Modelfile's settings reach every request, and a request's own win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mooring.gateway.defaults import apply_defaults
from mooring.modelstore.store import Model
from support.server import fake_home


def model_with(home: Path, **fields: Any) -> Model:
    return replace(fake_home(home, "m").get("m"), **fields)


def test_parameters_fill_in_only_what_is_open(tmp_path: Path) -> None:
    model = model_with(
        tmp_path, parameters={"temperature": 0.1, "num_predict": 9, "stop": ["</s>"], "num_ctx": 64}
    )
    body: dict[str, Any] = {"prompt": "x", "temperature": 0.7}
    assert apply_defaults(body, model)
    assert body == {"prompt": "x", "temperature": 0.7, "max_tokens": 9, "stop": ["</s>"]}


def test_no_limit_in_a_modelfile_stays_no_limit(tmp_path: Path) -> None:
    body: dict[str, Any] = {"prompt": "x"}
    assert not apply_defaults(body, model_with(tmp_path, parameters={"num_predict": -1}))
    assert body == {"prompt": "x"}


def test_the_models_system_prompt_yields_to_the_requests(tmp_path: Path) -> None:
    shot = {"role": "user", "content": "1+1"}
    model = model_with(tmp_path, system="Be brief.", messages=[shot])
    user = {"role": "user", "content": "hi"}
    own = {"role": "system", "content": "Be long."}
    body: dict[str, Any] = {"messages": [user]}
    apply_defaults(body, model)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, shot, user]
    body = {"messages": [own, user]}
    apply_defaults(body, model)
    assert body["messages"] == [own, shot, user]
