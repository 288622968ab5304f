"""Locks between the workers of one node. The kernel releases them with their holder; whoever holds one may remove its
file."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """A lock that is held from its creation to `release`, or to the end of the process. Methods raise OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def shared(cls, path: Path) -> "FileLock":
        """Waits for an exclusive holder, who never holds it for long."""
        lock = cls._locked(path, fcntl.LOCK_SH)
        assert lock
        return lock

    @classmethod
    def exclusive(cls, path: Path) -> "FileLock | None":
        """Returns None if anybody else holds it."""
        return cls._locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @classmethod
    def _locked(cls, path: Path, mode: int) -> "FileLock | None":
        while True:
            lock = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660))
            try:
                fcntl.flock(lock._descriptor, mode)
                if lock._is_at_its_path():
                    return lock
            except BlockingIOError:
                lock.release()
                return None
            except BaseException:
                lock.release()
                raise
            lock.release()

    def _is_at_its_path(self) -> bool:
        """Whether the file still exists, and was not removed between opening and locking it."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def touch(self) -> None:
        """Records the time of use."""
        os.utime(self._descriptor)

    def release(self, *, remove: bool = False) -> None:
        """Releases the lock. `remove` also removes the file, which only an exclusive holder may do."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
