"""Bounds what was written to the page cache and has not reached the disk."""

import ctypes
import os
import threading
from collections import deque
from functools import cache

from neuronmodel_worker.stream.numbers import Array

DIRTY_BYTES = 256 << 20

# <linux/fs.h>: SYNC_FILE_RANGE_WRITE begins to write, the other two wait for it.
BEGIN = 2
COMPLETE = 1 | 2 | 4


class Writeback:
    """Begins to write out what it is told of; once more than `limit_bytes` are on their way, the first of them is
    waited for and dropped from the page cache."""

    def __init__(self, limit_bytes: int = DIRTY_BYTES) -> None:
        self._limit = limit_bytes
        self._pending: deque[tuple[int, int, int]] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def wrote(self, descriptor: int, position: int, data: Array) -> None:
        """Raises OSError where the disk could not take what was written earlier."""
        _sync_file_range(descriptor, position, data.nbytes, BEGIN)
        with self._lock:
            self._pending.append((descriptor, position, data.nbytes))
            self._nbytes += data.nbytes
            late = []
            while self._nbytes > self._limit:
                late.append(self._pending.popleft())
                self._nbytes -= late[-1][2]
        for earlier, start, nbytes in late:
            _sync_file_range(earlier, start, nbytes, COMPLETE)
            os.posix_fadvise(earlier, start, nbytes, os.POSIX_FADV_DONTNEED)


def _sync_file_range(descriptor: int, position: int, nbytes: int, flags: int) -> None:
    if _libc().sync_file_range(descriptor, ctypes.c_int64(position), ctypes.c_int64(nbytes), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
