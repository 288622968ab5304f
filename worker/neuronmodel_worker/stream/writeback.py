"""Bounds the bytes that were written to the page cache and have not reached the disk."""

import threading
from collections import deque

from neuronmodel_worker.io.disk import begin_writeback, complete_writeback

DIRTY_BYTES = 256 << 20


class Writeback:
    """Starts writing each range of bytes to the disk; once more than `limit_bytes` are on their way, waits for the
    first of them and drops them from the page cache."""

    def __init__(self, limit_bytes: int = DIRTY_BYTES) -> None:
        self._limit = limit_bytes
        self._pending: deque[tuple[int, int, int]] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def wrote(self, descriptor: int, position: int, nbytes: int) -> None:
        """Bytes were written to the page cache. Raises OSError where the disk could not take earlier ones."""
        begin_writeback(descriptor, position, nbytes)
        with self._lock:
            self._pending.append((descriptor, position, nbytes))
            self._nbytes += nbytes
            due = []
            while self._nbytes > self._limit:
                due.append(self._pending.popleft())
                self._nbytes -= due[-1][2]
        for earlier in due:
            complete_writeback(*earlier)
