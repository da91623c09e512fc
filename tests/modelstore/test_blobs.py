from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mooring.errors import DigestMismatch, DiskFull, StoreError
from mooring.modelstore.blobs import STORE_LOCK, BlobStore
from mooring.modelstore.manifest import sha256_digest
from mooring.types import Progress

DAY = 24 * 3600


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


def _files(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.folder.glob("*"))


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_blob_is_found_by_what_it_contains(blobs: BlobStore) -> None:
    layer = blobs.add_bytes(b"weights", "type")
    assert layer.digest == sha256_digest(b"weights")
    assert blobs.add_bytes(b"weights", "type") == layer
    assert blobs.has(layer.digest, 7)
    assert not blobs.has(layer.digest, 8)
    assert blobs.path(layer.digest).read_bytes() == b"weights"
    assert _files(blobs) == [layer.digest.replace(":", "-")]


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", f"sha256:{'A' * 64}", f"md5:{'a' * 64}"])
def test_a_digest_cannot_lead_out_of_the_store(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(StoreError, match="not a sha256 digest"):
        blobs.path(digest)


def test_a_file_is_copied_with_progress_up_to_its_size(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(5 * 1024 * 1024))
    seen: list[Progress] = []
    layer = blobs.add_file(source, "type", seen.append)
    assert blobs.path(layer.digest).read_bytes() == source.read_bytes()
    assert [step.completed for step in seen] == [4 * 1024 * 1024, 5 * 1024 * 1024]
    assert all(step.total == layer.size for step in seen)


def test_a_file_that_cannot_be_read_is_named(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing"):
        blobs.add_file(tmp_path / "missing", "type")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_leaves_the_store_as_it_was(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    blobs.add_bytes(b"before", "type")
    before = _files(blobs)
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100)

    def full(_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"bytes left.*mooring rm"):
        blobs.add_file(source, "type")
    with pytest.raises(DiskFull):
        blobs.add_bytes(b"more", "type")
    assert _files(blobs) == before


def test_a_write_that_meets_a_full_disk_half_way_leaves_nothing(blobs: BlobStore) -> None:
    class Full(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().read(10)

    with pytest.raises(DiskFull):
        blobs.add_stream(Full(b"x" * 100), 100, "type", lambda _: None)
    assert _files(blobs) == []


def test_more_than_the_disk_holds_is_refused_before_a_byte_is_written(blobs: BlobStore) -> None:
    with pytest.raises(DiskFull, match="are needed"):
        blobs.require_space(1 << 62)
    assert not blobs.folder.exists()


def test_a_source_that_ends_early_is_an_error(blobs: BlobStore) -> None:
    with pytest.raises(StoreError, match="3 of 9"):
        blobs.add_stream(io.BytesIO(b"abc"), 9, "type", lambda _: None)
    assert _files(blobs) == []


def test_a_good_download_is_published_whole(blobs: BlobStore) -> None:
    digest = sha256_digest(b"content")
    partial = blobs.partial(digest)
    partial.write_bytes(b"content")
    assert blobs.publish(partial, digest) == blobs.path(digest)
    assert _files(blobs) == [digest.replace(":", "-")]


def test_a_bad_download_is_removed_and_told(blobs: BlobStore) -> None:
    partial = blobs.partial(sha256_digest(b"content"))
    partial.write_bytes(b"altered")
    with pytest.raises(DigestMismatch, match="pull again"):
        blobs.publish(partial, sha256_digest(b"content"))
    assert _files(blobs) == []


def test_a_download_without_a_known_hash_resumes_at_the_same_place(blobs: BlobStore) -> None:
    assert blobs.partial("https://host/a?b") == blobs.partial("https://host/a?b")
    assert blobs.partial("https://host/a?b") != blobs.partial("https://host/a?c")
    assert blobs.partial("https://host/a?b").parent == blobs.folder


def test_prune_leaves_what_is_needed_young_or_being_downloaded(blobs: BlobStore) -> None:
    kept, old, young = (blobs.add_bytes(text, "type").digest for text in (b"kept", b"old", b"young"))
    stale, busy = blobs.partial("stale"), blobs.partial("busy")
    (blobs.folder / "new-0-partial").write_bytes(b"copy")  # of a process that was killed
    for path in (stale, busy, stale.with_name(stale.name + ".json")):
        path.write_bytes(b"half")
        _age(path, 8 * DAY)
    _age(blobs.path(kept), 2 * DAY)
    _age(blobs.path(old), 2 * DAY)
    with blobs.download_lock("busy"), blobs.lock(STORE_LOCK):
        freed = blobs.prune({kept})
    assert freed == len(b"old") + 2 * len(b"half") + len(b"copy")
    assert blobs.has(kept)
    assert blobs.has(young)
    assert not blobs.has(old)
    assert busy.exists()
    assert not stale.exists()


def test_a_blob_in_use_is_not_deleted(blobs: BlobStore) -> None:
    digest = blobs.add_bytes(b"weights", "type").digest
    with blobs.use([digest]), blobs.use([digest]), blobs.lock(STORE_LOCK):
        assert blobs.delete([digest]) == 0
    with blobs.lock(STORE_LOCK):
        assert blobs.delete([digest]) == len(b"weights")
    assert list((blobs.root / "locks").glob("*")) == []


_HOLD = """
import sys, pathlib
from mooring.modelstore.blobs import BlobStore
with BlobStore(pathlib.Path(sys.argv[1])).use([sys.argv[2]]):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_worker_that_is_killed_lets_its_blobs_go(blobs: BlobStore) -> None:
    digest = blobs.add_bytes(b"weights", "type").digest
    command = [sys.executable, "-c", _HOLD, str(blobs.root), digest]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline().strip() == b"ready"
        with blobs.lock(STORE_LOCK):
            assert blobs.in_use() == {digest}
        worker.kill()
        worker.wait(30)
    with blobs.lock(STORE_LOCK):
        assert blobs.in_use() == set()
        assert blobs.delete([digest]) == len(b"weights")


def test_a_lock_lets_one_in_at_a_time(blobs: BlobStore) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(50):
            with blobs.lock("x"):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


def test_a_lock_that_is_held_can_be_asked_for_without_waiting(blobs: BlobStore) -> None:
    lock = blobs.lock("x")
    with blobs.lock("x"):
        assert not lock.acquire(blocking=False)
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_store_that_cannot_be_written_says_so(blobs: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StoreError, match="MOORING_HOME"):
        blobs.add_bytes(b"x", "type")
