"""What a machine is said to have must be what a process may really use."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from mooring.cluster import hardware
from mooring.cluster.hardware import GPU, MemoryLimit, can_offload, read_cgroup_limits, read_machine

GIB = 1024**3


def group(folder: Path, limit: str, used: int, stat: str, *, v1: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if v1 else ("memory.max", "memory.current")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(stat)


def limits(tmp_path: Path, own: str) -> list[MemoryLimit]:
    (tmp_path / "cgroup").write_text(own)
    return list(read_cgroup_limits(tmp_path / "cgroup", tmp_path / "fs"))


def test_this_machine_has_cores_and_memory() -> None:
    machine = read_machine(None)
    assert 1 <= machine.cores_physical <= (psutil.cpu_count() or 1)
    assert 0 < machine.ram_available <= machine.ram_total <= psutil.virtual_memory().total


def test_the_configured_limit_lowers_what_models_may_use() -> None:
    machine = read_machine(256 * 1024 * 1024)
    assert machine.ram_total == 256 * 1024 * 1024
    assert machine.ram_available <= machine.ram_total


def test_a_containers_limit_counts_and_its_page_cache_does_not(tmp_path: Path) -> None:
    group(tmp_path / "fs" / "box", str(4 * GIB), 3 * GIB, f"anon 1\ninactive_file {GIB}\n")
    assert limits(tmp_path, "0::/box\n") == [MemoryLimit(4 * GIB, 2 * GIB)]


def test_an_outer_groups_limit_counts_too(tmp_path: Path) -> None:
    group(tmp_path / "fs" / "pod" / "box", "max", GIB, "")
    group(tmp_path / "fs" / "pod", str(2 * GIB), GIB, "")
    assert limits(tmp_path, "0::/pod/box\n") == [MemoryLimit(2 * GIB, GIB)]


def test_a_container_that_sees_only_its_own_mount_finds_its_limit(tmp_path: Path) -> None:
    group(tmp_path / "fs", str(GIB), 5, "")
    assert limits(tmp_path, "0::/outer/path/not/mounted\n") == [MemoryLimit(GIB, 5)]


def test_the_first_version_of_control_groups_still_counts(tmp_path: Path) -> None:
    group(tmp_path / "fs" / "memory" / "docker", str(GIB), 500, "total_inactive_file 100\n", v1=True)
    assert limits(tmp_path, "9:pids:/\n4:memory:/docker\n0::/\n") == [MemoryLimit(GIB, 400)]


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    group(tmp_path / "fs" / "memory", "9223372036854771712", 5, "", v1=True)
    group(tmp_path / "fs", "max", 5, "")
    assert limits(tmp_path, "4:memory:/\n0::/\n") == []


def test_a_system_without_control_groups_has_none(tmp_path: Path) -> None:
    assert list(read_cgroup_limits(tmp_path / "none", tmp_path)) == []


def test_a_container_cannot_be_promised_more_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group(tmp_path / "fs", str(GIB), GIB // 4, "")
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr(hardware, "_OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path / "fs")
    machine = read_machine(None)
    assert machine.ram_total == GIB
    assert machine.ram_available <= GIB * 3 // 4


def test_a_containers_cpu_quota_limits_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path)
    assert read_machine(None).cores_physical == 1


class NVML(SimpleNamespace):
    """The calls of pynvml that are used, for one GPU."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, driver: bool) -> None:
        super().__init__(
            nvmlInit=self._init if not driver else lambda: None,
            nvmlShutdown=lambda: None,
            nvmlDeviceGetCount=lambda: 1,
            nvmlDeviceGetHandleByIndex=lambda index: index,
            nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=80 * GIB, free=70 * GIB),
            nvmlDeviceGetName=lambda handle: "A GPU",
        )

    def _init(self) -> None:
        raise self.NVMLError("no driver")


def test_an_nvidia_gpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NVML(driver=True))
    assert read_machine(None).gpus == (GPU(index=0, name="A GPU", total=80 * GIB, free=70 * GIB),)


def test_a_machine_without_the_driver_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NVML(driver=False))
    if sys.platform != "darwin":
        assert read_machine(None).gpus == ()


def test_an_engine_that_does_not_start_uses_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert can_offload() is False


@pytest.mark.skipif(sys.platform != "linux", reason="PyPI's builds for Linux are for the CPU")
def test_a_cpu_build_of_the_engine_uses_no_gpu() -> None:
    assert can_offload() is False
