"""Content-addressed blobs: ``blobs/sha256-<hex>``, published by an atomic rename after their hash is known."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mooring.errors import DigestMismatch, DiskFull, StoreError
from mooring.modelstore.locks import FileLock
from mooring.modelstore.manifest import Layer, find_digests, sha256_digest
from mooring.types import Progress, ProgressFn, ignore_progress

STORE_LOCK = "store"
_CHUNK = 4 * 1024 * 1024
_USE = "use-"
_PARTIAL = "-partial"
_NEW = "new-"  # partial files that cannot be resumed
_BLOB_NAME = re.compile(r"sha256-([0-9a-f]{64})")
# A blob that no manifest names may belong to a pull under way; a partial download may still be resumed.
_BLOB_GRACE = 24 * 3600.0
_PARTIAL_GRACE = 7 * 24 * 3600.0
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turn the system's errors of writing below ``where`` into DiskFull or StoreError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"The disk of {where} is full ({free_bytes(where):,} bytes left). Free some space "
                f"(`mooring rm MODEL`), or set MOORING_HOME to a folder on a larger disk; then try again."
            ) from error
        if error.errno in _DENIED:
            raise StoreError(
                f"Cannot write to {where}: {error.strerror}. Give this user the right to write there, "
                f"or set MOORING_HOME to another folder."
            ) from error
        raise


def free_bytes(where: Path) -> int:
    """Free bytes on the disk of ``where``, which need not exist yet."""
    while not where.exists() and where != where.parent:
        where = where.parent
    return shutil.disk_usage(where).free


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable; Windows does so by itself."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def hash_file(path: Path, step: Callable[[int], None]) -> str:
    """The sha256 digest of a file; ``step`` is told the bytes done so far."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            step(done)
    return f"sha256:{digest.hexdigest()}"


def _reporter(progress: ProgressFn, status: str, total: int, digest: str = "") -> Callable[[int], None]:
    return lambda done: progress(Progress(status=status, digest=digest, total=total, completed=done))


class BlobStore:
    """The blobs of the store at ``root``, in its ``blobs`` folder; locks are in its ``locks`` folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "blobs"
        self._locks = root / "locks"

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be. ``digest`` is ``sha256:`` and 64 lower-case hex digits."""
        name = digest.replace(":", "-", 1)
        if not _BLOB_NAME.fullmatch(name):
            raise StoreError(f"'{digest}' is not a sha256 digest.")
        return self.folder / name

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is here (and, if given, of that size)."""
        try:
            found = self.path(digest).stat().st_size
        except FileNotFoundError:
            return False
        return size is None or found == size

    def partial(self, key: str) -> Path:
        """Where to gather a blob before ``publish``: one path per digest (or other key), kept across runs.

        A download may keep its state beside it, in files whose names begin with this one's.
        """
        stem = key.replace(":", "-", 1)
        if not _BLOB_NAME.fullmatch(stem):
            stem = f"key-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        with writing(self.root):
            self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{stem}{_PARTIAL}"

    # Locks

    def lock(self, name: str) -> FileLock:
        """A lock between processes, not yet taken: use as a context manager, or by ``acquire``."""
        return FileLock(self._locks / f"{name}.lock")

    def download_lock(self, key: str) -> FileLock:
        """The lock of the partial file of ``key``: whoever writes to it holds this."""
        return self.lock(self.partial(key).name.removesuffix(_PARTIAL))

    @contextmanager
    def use(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep these blobs from being deleted while the block runs, or until this process dies.

        Any number of processes may use one blob. Workers hold this while they run, pulls while they gather.
        """
        pin = self.lock(f"{_USE}{uuid.uuid4().hex}")
        with writing(self.root), self.lock(STORE_LOCK):
            pin.acquire()
            pin.write(json.dumps(sorted(set(digests))).encode())
        try:
            yield
        finally:
            pin.release()

    def in_use(self) -> set[str]:
        """The digests that live processes use. Call under the store's lock."""
        used: set[str] = set()
        for path in self._locks.glob(f"{_USE}*.lock"):
            pin = FileLock(path)
            if pin.acquire(blocking=False):
                pin.release()  # its process died: the file goes
            else:
                used |= find_digests(path.read_bytes())
        return used

    # Adding

    def add_bytes(self, data: bytes, media_type: str) -> Layer:
        """Store ``data``. Raises DiskFull."""
        digest = sha256_digest(data)
        if not self._adopt(digest, len(data)):
            with self._temporary() as (temporary, file):
                file.write(data)
                self._install(temporary, file, digest)
        return Layer(media_type, digest, len(data))

    def add_file(self, path: Path, media_type: str, progress: ProgressFn = ignore_progress) -> Layer:
        """Copy a file into the store. Raises DiskFull, StoreError if it cannot be read."""
        try:
            source = path.open("rb")
        except OSError as error:
            raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
        with source:
            return self.add_stream(source, path.stat().st_size, media_type, progress)

    def add_stream(
        self, source: BinaryIO, size: int, media_type: str, progress: ProgressFn, *, digest: str = ""
    ) -> Layer:
        """Copy exactly ``size`` bytes of ``source`` into the store.

        Raises DiskFull, DigestMismatch if ``digest`` is given and differs, StoreError if the source ends early.
        """
        self.require_space(size)
        step, hasher, done = _reporter(progress, "copying", size, digest), hashlib.sha256(), 0
        with self._temporary() as (temporary, file):
            while done < size:
                if not (chunk := source.read(min(_CHUNK, size - done))):
                    raise StoreError(f"The source ended after {done:,} of {size:,} bytes; it is cut short.")
                hasher.update(chunk)
                file.write(chunk)
                done += len(chunk)
                step(done)
            found = f"sha256:{hasher.hexdigest()}"
            if digest and found != digest:
                raise DigestMismatch(f"The content is {found}, but {digest} was promised: it is damaged.")
            self._install(temporary, file, found)
        return Layer(media_type, found, size)

    def publish(self, partial: Path, digest: str, progress: ProgressFn = ignore_progress) -> Path:
        """Verify a gathered file and make it the blob ``digest``.

        Raises DigestMismatch, and then removes the file, since resuming it would not mend it.
        """
        found = hash_file(partial, _reporter(progress, "verifying", partial.stat().st_size, digest))
        if found != digest:
            partial.unlink()
            raise DigestMismatch(
                f"The download is {found}, but {digest} was promised. It was damaged on the way or changed at "
                f"its source, and has been removed; pull again."
            )
        with writing(self.root), partial.open("r+b") as file:
            os.fsync(file.fileno())
        return self._rename(partial, digest)

    def require_space(self, size: int) -> None:
        """Raises DiskFull if ``size`` more bytes do not fit on the disk."""
        free = free_bytes(self.root)
        if size > free:
            raise DiskFull(
                f"{size:,} bytes are needed, but the disk of {self.root} has {free:,} left. Free some space "
                f"(`mooring rm MODEL`), or set MOORING_HOME to a folder on a larger disk."
            )

    @contextmanager
    def _temporary(self) -> Iterator[tuple[Path, BinaryIO]]:
        """A new file in the blobs folder; gone at the end unless it was installed."""
        path = self.folder / f"{_NEW}{uuid.uuid4().hex}{_PARTIAL}"
        with writing(self.root), self.lock(path.name.removesuffix(_PARTIAL)):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("xb") as file:
                    yield path, file
            finally:
                path.unlink(missing_ok=True)

    def _install(self, temporary: Path, file: BinaryIO, digest: str) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._rename(temporary, digest)

    def _rename(self, temporary: Path, digest: str) -> Path:
        target = self.path(digest)
        with writing(self.root):
            try:
                temporary.replace(target)
            except PermissionError:  # Windows: the same blob is open elsewhere, and equal
                if not self.has(digest, temporary.stat().st_size):
                    raise
                temporary.unlink()
            sync_folder(self.folder)
        return target

    def _adopt(self, digest: str, size: int) -> bool:
        """Whether the blob is here; if so its grace begins anew."""
        if not self.has(digest, size):
            return False
        with writing(self.root):
            try:
                os.utime(self.path(digest))
            except FileNotFoundError:  # another process deleted it just now
                return False
        return True

    # Deleting: only under the store's lock

    def delete(self, digests: Iterable[str]) -> int:
        """Delete these blobs but those in use; returns the bytes freed. Call under the store's lock."""
        used = self.in_use()
        return sum(_remove(self.path(digest)) for digest in digests if digest not in used)

    def prune(self, keep: set[str]) -> int:
        """Delete the blobs not in ``keep`` and the partial files that were abandoned; returns the bytes freed.

        What is in use or young (a day for a blob, a week for a download) stays. Call under the store's lock.
        """
        keep = keep | self.in_use()
        now, freed = time.time(), 0
        for path in self.folder.glob("*"):
            match = _BLOB_NAME.fullmatch(path.name)
            grace = _BLOB_GRACE if match else 0.0 if path.name.startswith(_NEW) else _PARTIAL_GRACE
            if (match and f"sha256:{match[1]}" in keep) or now - _modified(path, now) < grace:
                continue
            if match:
                freed += _remove(path)
            elif _PARTIAL in path.name:
                freed += self._remove_partial(path)
        return freed

    def _remove_partial(self, path: Path) -> int:
        lock = self.lock(path.name.partition(_PARTIAL)[0])
        if not lock.acquire(blocking=False):
            return 0
        try:
            return _remove(path)
        finally:
            lock.release()


def _modified(path: Path, default: float) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # just published by its writer
        return default


def _remove(path: Path) -> int:
    """Delete a file; returns its size, 0 if it is gone or (on Windows) open."""
    try:
        size = path.stat().st_size
        path.unlink()
    except (FileNotFoundError, PermissionError):
        return 0
    return size
