"""A deployment orders and a Modelfile wishes, and the worker gets what this machine can do of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.cluster import memory, planning
from mooring.cluster.footprint import MIB
from mooring.cluster.hardware import GPU, Machine
from mooring.cluster.planning import Planned, plan_worker
from mooring.config import DeploymentSettings
from mooring.errors import InvalidParameter
from mooring.modelstore.create import create
from mooring.modelstore.store import Model, ModelStore
from support.tiny_models import write_llama

GIB = 1024 * MIB
GPU_24 = GPU(index=0, name="A GPU", total=24 * GIB, free=23 * GIB)
TINY_LAYERS = 3  # two blocks and the output


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _use_machine(monkeypatch)


@pytest.fixture
def usable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _use_machine(monkeypatch, GPU_24)


def _use_machine(monkeypatch: pytest.MonkeyPatch, *gpus: GPU) -> None:
    machine = Machine(cores_physical=4, ram_total=16 * GIB, ram_available=12 * GIB, gpus=gpus)
    monkeypatch.setattr(planning, "read_machine", lambda limit: machine)
    monkeypatch.setattr(memory, "can_offload", lambda: True)


def make_model(folder: Path, num_gpu: int) -> Model:
    write_llama(folder / "tiny.gguf")
    modelfile = f"FROM ./tiny.gguf\nPARAMETER num_gpu {num_gpu}\n"
    return create(ModelStore(folder / "store"), "tiny", modelfile, base_dir=folder)


def plan_tiny(model: Model, **wish: object) -> Planned:
    return plan_worker(model, DeploymentSettings.model_validate(wish), 0, 12 * GIB)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("num_gpu", [99, 1, 0, -1])
def test_a_modelfile_written_for_a_gpu_still_loads_without_one(tmp_path: Path, num_gpu: int) -> None:
    assert plan_tiny(make_model(tmp_path, num_gpu)).spec.gpu_layers == 0


@pytest.mark.usefixtures("usable_gpu")
@pytest.mark.parametrize(("num_gpu", "layers"), [(99, TINY_LAYERS), (1, 1), (0, 0), (-1, TINY_LAYERS)])
def test_a_modelfiles_num_gpu_is_followed_as_far_as_the_model_goes(
    tmp_path: Path, num_gpu: int, layers: int
) -> None:
    assert plan_tiny(make_model(tmp_path, num_gpu)).spec.gpu_layers == layers


@pytest.mark.usefixtures("no_gpu")
def test_gpu_layers_of_a_deployment_are_refused_by_name_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="no GPU here") as refused:
        plan_tiny(make_model(tmp_path, -1), gpu_layers=2)
    assert refused.value.param == "gpu_layers"


@pytest.mark.usefixtures("usable_gpu")
def test_gpu_layers_of_a_deployment_overrule_the_modelfile(tmp_path: Path) -> None:
    model = make_model(tmp_path, 0)
    assert plan_tiny(model, gpu_layers=2).spec.gpu_layers == 2
    assert plan_tiny(make_model(tmp_path, 2), gpu_layers=0).spec.gpu_layers == 0
