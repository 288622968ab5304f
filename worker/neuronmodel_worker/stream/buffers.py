"""Memory that is lent and used again: fresh pages cost more than the disk's bytes that go into them."""

import mmap
import threading

import numpy as np

from neuronmodel_worker.io.disk import BLOCK
from neuronmodel_worker.stream.dtypes import Array

# Room of buffers is a multiple of this, so that one fits the next of about its size.
GRAIN = 256 << 10


class Buffers:
    """Lends buffers that begin on a disk block. All of them together stay within `limit_bytes` as far as what is lent
    at a time does."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._free: list[Array] = []
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> Array:
        """Bytes of whatever was in them before, at least `nbytes`."""
        room = max(1, -(-nbytes // GRAIN)) * GRAIN
        with self._lock:
            fitting = [i for i, buffer in enumerate(self._free) if room <= buffer.nbytes <= 2 * room]
            if fitting:
                return self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes))
            while self._free and self._held + room > self._limit:
                self._held -= self._free.pop(0).nbytes
            self._held += room
        return fresh(room)

    def give(self, buffer: Array) -> None:
        with self._lock:
            self._free.append(buffer)


def fresh(nbytes: int) -> Array:
    """Memory of the system's, zero, that begins on a disk block and goes back to it with the last array over it."""
    return np.frombuffer(mmap.mmap(-1, max(1, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def placed(buffer: Array, position: int, nbytes: int) -> Array:
    """The `nbytes` of a buffer that lie to disk blocks as a file's bytes from `position` on: those can be transferred
    without the page cache. The buffer has to have room for a block more."""
    lead = position % BLOCK
    return buffer[lead : lead + nbytes]
