"""Locks between processes (and threads) by lock files; the system frees them when their holder dies."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

_POLL = 0.05  # seconds; Windows has no waiting lock that Ctrl-C can end
_LOCK_BYTE = 1 << 30  # Windows locks bytes, and a locked byte cannot be read: take one past the content

if sys.platform == "win32":
    import msvcrt

    def _try_lock(fd: int) -> bool:
        os.lseek(fd, _LOCK_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _wait_lock(fd: int) -> None:
        while not _try_lock(fd):
            time.sleep(_POLL)

else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX)


class FileLock:
    """An exclusive lock on ``path``, which exists only while it is held (or after its holder was killed).

    Two FileLock objects exclude each other also within one process and one thread: do not nest them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the lock; False if ``blocking`` is false and another holds it."""
        assert self._fd is None, "this lock is held already"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if not blocking and not _try_lock(fd):
                    os.close(fd)
                    return False
                if blocking:
                    _wait_lock(fd)
                if self._is_current(fd):
                    self._fd = fd
                    return True
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its last holder removed the file while we waited: take the new one

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

    def write(self, content: bytes) -> None:
        """Replace the lock file's content; the lock must be held."""
        assert self._fd is not None, "write needs the lock"
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, content)

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        if os.name != "nt":
            self.path.unlink(missing_ok=True)
        os.close(fd)
        if os.name == "nt":  # Windows removes no open file, so another may have taken it: then it stays
            try:
                self.path.unlink(missing_ok=True)
            except PermissionError:
                return

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
