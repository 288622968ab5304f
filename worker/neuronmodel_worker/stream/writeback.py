"""Bounds what was written to the page cache and has not reached the disk."""

import threading
from collections import deque

from neuronmodel_worker.io.disk import begin_writeback, complete_writeback

DIRTY_BYTES = 256 << 20


class Writeback:
    """Begins to write out what it is told of; once more than `limit_bytes` are on their way, the first of them is
    waited for and dropped from the page cache."""

    def __init__(self, limit_bytes: int = DIRTY_BYTES) -> None:
        self._limit = limit_bytes
        self._pending: deque[tuple[int, int, int]] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()

    def wrote(self, descriptor: int, position: int, nbytes: int) -> None:
        """Raises OSError where the disk could not take what was written earlier."""
        begin_writeback(descriptor, position, nbytes)
        with self._lock:
            self._pending.append((descriptor, position, nbytes))
            self._nbytes += nbytes
            late = []
            while self._nbytes > self._limit:
                late.append(self._pending.popleft())
                self._nbytes -= late[-1][2]
        for earlier in late:
            complete_writeback(*earlier)
