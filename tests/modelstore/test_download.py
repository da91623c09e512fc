from __future__ import annotations

import asyncio
import errno
import functools
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.config import Settings
from mooring.egress import Backoff, Egress
from mooring.errors import DigestMismatch, DiskFull, SourceError
from mooring.modelstore import blobs as blobs_module
from mooring.modelstore import gather
from mooring.modelstore.blobs import BlobStore
from mooring.modelstore.download import RemoteFile, fetch
from mooring.modelstore.manifest import MODEL_TYPE, Layer
from mooring.types import Progress, ignore_progress
from servers.files import Fault, FileServer
from servers.web import serving

MIB = 1 << 20


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.fixture
async def egress() -> AsyncIterator[Egress]:
    async with Egress(Settings()) as egress:
        yield egress


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def remote(url: object, server: FileServer, *, known: bool = True) -> RemoteFile:
    return RemoteFile(
        url=f"{url}/weights.gguf?signature=secret",
        filename="weights.gguf",
        media_type=MODEL_TYPE,
        size=len(server.content) if known else None,
        sha256=server.sha256 if known else None,
    )


async def get(egress: Egress, file: RemoteFile, blobs: BlobStore, connections: int = 4) -> Layer:
    return (await fetch(egress, [file], blobs, connections=connections, progress=ignore_progress))[0]


def leftovers(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.folder.glob("*") if "partial" in path.name)


async def test_a_file_arrives_whole_in_parallel_parts(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(9 * MIB + 17), rate=20 * MIB)
    async with serving(server.app()) as url:
        layer = await get(egress, remote(url, server), blobs)
    assert layer == Layer(MODEL_TYPE, f"sha256:{server.sha256}", len(server.content)).with_title(
        "weights.gguf"
    )
    assert blobs.path(layer.digest).read_bytes() == server.content
    assert server.peak == 4
    assert max(server.sent.values()) <= 2  # a KiB on the border of two parts is counted twice
    assert leftovers(blobs) == []


async def test_a_blob_that_is_here_is_not_asked_for_again(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(2 * MIB))
    async with serving(server.app()) as url:
        await get(egress, remote(url, server), blobs)
        asked = len(server.requests)
        await get(egress, remote(url, server), blobs)
    assert len(server.requests) == asked


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1])
@pytest.mark.parametrize("known", [True, False])
async def test_any_size_arrives(blobs: BlobStore, egress: Egress, size: int, known: bool) -> None:
    server = FileServer(content(size))
    async with serving(server.app()) as url:
        layer = await get(egress, remote(url, server, known=known), blobs)
    assert (layer.digest, layer.size) == (f"sha256:{server.sha256}", size)


async def test_a_server_without_ranges_works(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(3 * MIB), ranges=False)
    async with serving(server.app()) as url:
        layer = await get(egress, remote(url, server), blobs)
        assert blobs.path(layer.digest).read_bytes() == server.content


async def test_a_server_that_says_no_length_works(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(3 * MIB), ranges=False, lengths=False)
    async with serving(server.app()) as url:
        layer = await get(egress, remote(url, server, known=False), blobs)
    assert layer.digest == f"sha256:{server.sha256}"


async def test_resets_and_busy_servers_are_survived(blobs: BlobStore, egress: Egress) -> None:
    faults = [
        Fault(status=503),
        Fault(cut=200_000),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(cut=0),
        Fault(status=500),
    ]
    server = FileServer(content(5 * MIB), faults=faults)
    async with serving(server.app()) as url:
        layer = await get(egress, remote(url, server), blobs)
    assert layer.digest == f"sha256:{server.sha256}"
    assert server.faults == []


async def test_retry_after_is_waited_for(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(MIB), faults=[Fault(status=429, headers={"Retry-After": "1"})])
    loop = asyncio.get_running_loop()
    async with serving(server.app()) as url:
        began = loop.time()
        await get(egress, remote(url, server), blobs)
    assert loop.time() - began >= 1.0


async def test_a_dead_server_ends_in_words_and_keeps_what_was_fetched(
    blobs: BlobStore, egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "Backoff", functools.partial(Backoff, attempts=3))
    server = FileServer(content(4 * MIB), rate=2 * MIB)
    async with serving(server.app()) as url:
        pull = asyncio.create_task(get(egress, remote(url, server), blobs))
        while sum(server.sent.values()) < 2048:
            await asyncio.sleep(0.01)
    with pytest.raises(SourceError, match=r"^127\.0\.0\.1: .*pull again to go on") as caught:
        await pull
    assert "secret" not in str(caught.value)
    server.sent.clear()
    server.rate = 0
    async with serving(server.app()) as url:
        await get(egress, remote(url, server), blobs)
    assert sum(server.sent.values()) < 3 * 1024


async def test_refusals_are_not_repeated(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(MIB), faults=[Fault(status=404)])
    async with serving(server.app()) as url:
        with pytest.raises(SourceError, match="404"):
            await get(egress, remote(url, server), blobs)
    assert len(server.requests) == 1


async def test_damaged_content_leaves_the_store_as_it_was(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(2 * MIB))
    file = remote(url="", server=server)
    async with serving(server.app()) as url:
        file = remote(url, server)
        server.content = content(2 * MIB, seed=1)
        with pytest.raises(DigestMismatch, match="pull again"):
            await get(egress, file, blobs)
    assert list(blobs.folder.iterdir()) == []


async def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    blobs: BlobStore, egress: Egress
) -> None:
    server = FileServer(content(3 * MIB))
    async with serving(server.app()) as url:
        file = remote(url, server)
        server.content = content(4 * MIB)
        with pytest.raises(SourceError, match="promised"):
            await get(egress, file, blobs)
    assert sum(server.sent.values()) <= 1


async def test_a_full_disk_is_told_before_anything_is_fetched(
    blobs: BlobStore, egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "free_bytes", lambda _: MIB)
    server = FileServer(content(3 * MIB))
    async with serving(server.app()) as url:
        with pytest.raises(DiskFull, match=r"3,145,728 bytes are needed"):
            await get(egress, remote(url, server), blobs)
    assert not blobs.has(f"sha256:{server.sha256}")


async def test_a_disk_that_fills_up_leaves_the_store_as_it_was_and_the_pull_goes_on_later(
    blobs: BlobStore, egress: Egress, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FileServer(content(6 * MIB))
    real, written = gather._write_at, 0

    def fill_up(path: Path, offset: int, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 3 * MIB:
            with blobs_module.writing(path.parent):
                raise OSError(errno.ENOSPC, "No space left on device")
        real(path, offset, data)

    monkeypatch.setattr(gather, "_write_at", fill_up)
    async with serving(server.app()) as url:
        with pytest.raises(DiskFull, match="Free some space"):
            await get(egress, remote(url, server), blobs, connections=1)
        assert not blobs.has(f"sha256:{server.sha256}")
        monkeypatch.setattr(gather, "_write_at", real)
        server.sent.clear()
        await get(egress, remote(url, server), blobs, connections=1)
    assert blobs.path(f"sha256:{server.sha256}").read_bytes() == server.content
    assert sum(server.sent.values()) < 5 * 1024


async def test_a_file_that_changes_at_its_source_is_begun_anew(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(6 * MIB), rate=4 * MIB)
    async with serving(server.app()) as url:
        pull = asyncio.create_task(get(egress, remote(url, server, known=False), blobs, connections=2))
        while sum(server.sent.values()) < 2048:
            await asyncio.sleep(0.01)
        server.content, server.etag, server.rate = content(6 * MIB, seed=2), '"second"', 0
        layer = await pull
    assert layer.digest == f"sha256:{server.sha256}"


async def test_a_url_without_a_hash_is_not_fetched_twice(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(2 * MIB))
    async with serving(server.app()) as url:
        first = await get(egress, remote(url, server, known=False), blobs)
        server.sent.clear()
        assert await get(egress, remote(url, server, known=False), blobs) == first
        assert sum(server.sent.values()) <= 1
        server.content, server.etag = content(2 * MIB, seed=3), '"second"'
        assert (
            await get(egress, remote(url, server, known=False), blobs)
        ).digest == f"sha256:{server.sha256}"


async def test_two_pulls_in_one_process_share_one_download(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(4 * MIB), rate=4 * MIB)
    steps: list[Progress] = []
    async with serving(server.app()) as url:
        file = remote(url, server)
        first = asyncio.create_task(get(egress, file, blobs))
        while not server.requests:
            await asyncio.sleep(0.005)
        second = fetch(egress, [file], blobs, connections=4, progress=steps.append)
        (waited,) = await second
        assert waited == await first
    assert max(server.sent.values()) <= 2
    assert any(step.status.startswith("waiting for another pull") and step.total for step in steps)


async def test_cancelling_frees_the_lock_and_keeps_the_parts(blobs: BlobStore, egress: Egress) -> None:
    server = FileServer(content(4 * MIB), rate=4 * MIB)
    async with serving(server.app()) as url:
        pull = asyncio.create_task(get(egress, remote(url, server), blobs))
        while sum(server.sent.values()) < 2048:
            await asyncio.sleep(0.01)
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        server.sent.clear()
        server.rate = 0
        await get(egress, remote(url, server), blobs)
    assert sum(server.sent.values()) < 3 * 1024


_CHILD = """
import asyncio, sys
from pathlib import Path
from mooring.config import Settings
from mooring.egress import Backoff, Egress
from mooring.modelstore.blobs import BlobStore
from mooring.modelstore.download import RemoteFile, fetch

async def main(root, url, size, sha256):
    file = RemoteFile(url=url, filename="weights.gguf", media_type="application/vnd.ollama.image.model",
                      size=int(size), sha256=sha256)
    async with Egress(Settings()) as egress:
        await fetch(egress, [file], BlobStore(Path(root)), connections=4, progress=lambda _: None)

asyncio.run(main(*sys.argv[1:]))
"""


def start_child(blobs: BlobStore, url: object, server: FileServer) -> subprocess.Popen[bytes]:
    arguments = [str(blobs.root), f"{url}/weights.gguf", str(len(server.content)), server.sha256]
    return subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], stderr=subprocess.PIPE)


async def ended(child: subprocess.Popen[bytes]) -> int:
    _, problems = await asyncio.to_thread(child.communicate)
    if child.returncode == 1:
        raise AssertionError(problems.decode())
    return child.returncode


async def test_a_pull_killed_five_times_ends_right_without_fetching_finished_parts_again(
    blobs: BlobStore,
) -> None:
    chance = random.Random(7)
    server = FileServer(content(12 * MIB), rate=1 * MIB)
    finished: list[range] = []
    async with serving(server.app()) as url:
        for _ in range(5):
            before, child = sum(server.sent.values()), start_child(blobs, url, server)
            quota = chance.uniform(0.2, 3.2) * 1024
            while sum(server.sent.values()) - before < quota:
                await asyncio.sleep(0.005)
            child.kill()
            await ended(child)
            finished.extend(finished_parts(blobs, server))
        assert not blobs.has(f"sha256:{server.sha256}")
        sent_before = server.sent.copy()
        server.rate = 0
        assert await ended(start_child(blobs, url, server)) == 0
    assert hashlib.sha256(blobs.path(f"sha256:{server.sha256}").read_bytes()).hexdigest() == server.sha256
    assert finished, "no part was finished before a kill: the test proves nothing"
    for part in finished:
        assert all(server.sent[kib] == sent_before[kib] for kib in part)
    assert sum(server.sent.values()) < 1.6 * len(server.content) / 1024
    assert leftovers(blobs) == []


def finished_parts(blobs: BlobStore, server: FileServer) -> list[range]:
    """The KiB inside the parts that the state file calls finished."""
    state_file = blobs.folder / f"sha256-{server.sha256}-partial.json"
    if not state_file.exists():
        return []
    state = json.loads(state_file.read_bytes())
    size, kib = state["part_size"], 1024
    return [
        range(index * size // kib + 1, (index + 1) * size // kib - 1)
        for index, done in enumerate(state["done"])
        if done == size
    ]


async def test_two_processes_pulling_one_blob_share_one_download(blobs: BlobStore) -> None:
    server = FileServer(content(4 * MIB), rate=4 * MIB)
    async with serving(server.app()) as url:
        children = [start_child(blobs, url, server) for _ in range(2)]
        assert [await ended(child) for child in children] == [0, 0]
    assert max(server.sent.values()) <= 2
    assert blobs.path(f"sha256:{server.sha256}").read_bytes() == server.content
