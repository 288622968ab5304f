"""Locks among the workers of one node, which die with their holders: on files that may be removed by who holds them."""

import fcntl
import os
from pathlib import Path


class FileLock:
    """Held from when it was made to `release`, or to the end of the process. Raises OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def shared(cls, path: Path) -> "FileLock":
        """Waits for an exclusive holder, who is quick."""
        lock = cls._locked(path, fcntl.LOCK_SH)
        assert lock
        return lock

    @classmethod
    def exclusive(cls, path: Path) -> "FileLock | None":
        """None where anybody else holds it."""
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
        """Whether the file was not removed between its opening and its locking."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def touch(self) -> None:
        """Now is when it was used."""
        os.utime(self._descriptor)

    def release(self, *, remove: bool = False) -> None:
        """`remove` the file as well, which is for an exclusive holder."""
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
