"""What this machine has for models: cores, memory that may really be used, GPUs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
# A limit above this is how the kernel writes "none" (cgroup v1: the largest page-aligned signed 64-bit number).
_NO_LIMIT = 1 << 60
# Metal lets a process wire about this much of the shared memory (recommendedMaxWorkingSetSize).
_METAL_SHARE = 0.67


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """Bytes. ``unified``: its memory is the machine's RAM (Apple), so what it holds counts there."""

    index: int
    name: str
    total: int
    free: int
    unified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Bytes and physical cores, within the limits of a container and of the configuration."""

    cores_physical: int
    ram_total: int
    ram_available: int
    gpus: tuple[GPU, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A control group's limit, and what of it is used and cannot be reclaimed. Bytes."""

    limit: int
    used: int


def read_machine(memory_limit: int | None) -> Machine:
    """Looks now; ``memory_limit`` (bytes, from the settings) lowers both numbers of memory."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for group in read_cgroup_limits(_OWN_CGROUP, _CGROUPS):
        total = min(total, group.limit)
        available = min(available, max(0, group.limit - group.used))
    if memory_limit is not None:
        total, available = min(total, memory_limit), min(available, memory_limit)
    gpus = _metal(total, available) or _nvidia()
    return Machine(cores_physical=_cores(), ram_total=total, ram_available=available, gpus=gpus)


def can_offload() -> bool:
    """Whether the installed llama.cpp was built for a GPU that it finds here: PyPI's builds for Linux and
    Windows were not. Asked of a short-lived process, so that this one never loads an engine or a GPU driver.

    A build that does not even start counts as one that cannot; loading a model will then say why.
    """
    question = (
        "import xllamacpp as x; cpu = x.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU; "
        "print(sum(device['type'] != cpu for device in x.get_device_info()))"
    )
    try:
        answer = subprocess.run(
            [sys.executable, "-c", question], capture_output=True, text=True, timeout=60, check=True
        )
        return int(answer.stdout.split()[-1]) > 0
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return False


def _cores() -> int:
    """Physical cores, fewer where this process is pinned to some or its container has a CPU quota."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quota = _read_text(_CGROUPS / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit():
        cores = min(cores, -(-int(quota[0]) // int(quota[1])))
    return max(1, cores)


def read_cgroup_limits(own: Path, mount: Path) -> Iterator[MemoryLimit]:
    """The memory limits over this process, its own group's and its ancestors'; none where there is no cgroup.

    ``own``: /proc/self/cgroup; ``mount``: /sys/fs/cgroup. v2 and v1 as in the kernel's admin guide,
    https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html. Inside a container the path
    may not exist below the mount: then the mount itself is the container's group.
    """
    for line in _read_text(own).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = mount / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        for folder in (inner, *inner.parents):
            limit = _group_limit(base / folder, *names)
            if limit is not None:
                yield limit


def _group_limit(folder: Path, limit_name: str, usage_name: str, reclaimable: str) -> MemoryLimit | None:
    limit, usage = _read_text(folder / limit_name).strip(), _read_text(folder / usage_name).strip()
    if not limit.isdigit() or not usage.isdigit() or int(limit) >= _NO_LIMIT:
        return None
    pairs = (line.split() for line in _read_text(folder / "memory.stat").splitlines())
    cached = next((int(value) for key, value in pairs if key == reclaimable), 0)
    return MemoryLimit(int(limit), max(0, int(usage) - cached))


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""


def _metal(total: int, available: int) -> tuple[GPU, ...]:
    """Apple silicon's GPU, which every build of llama.cpp for it can use. Not run: no Mac at hand."""
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return ()
    share = int(total * _METAL_SHARE)
    return (GPU(index=0, name="Apple GPU (Metal)", total=share, free=min(share, available), unified=True),)


def _nvidia() -> tuple[GPU, ...]:
    """NVIDIA's GPUs by NVML; none where its driver is not installed."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        memory = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        return tuple(
            GPU(index=i, name=str(pynvml.nvmlDeviceGetName(handles[i])), total=int(m.total), free=int(m.free))
            for i, m in enumerate(memory)
        )
    except pynvml.NVMLError:
        return ()
    finally:
        pynvml.nvmlShutdown()
