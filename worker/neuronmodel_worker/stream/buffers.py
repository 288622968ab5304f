"""Buffers that are lent and reused: fresh pages cost more time than reading the bytes that go into them."""

import threading

from neuronmodel_worker.io.aligned import Array, fresh

# Buffer sizes are multiples of this, so that a buffer can be reused for others of about its size.
GRAIN = 256 << 10


class Buffers:
    """Lends buffers that begin on a disk block. Their total stays within `limit_bytes` as long as the buffers that are
    lent at a time do."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._allocated = 0
        self._free: list[Array] = []
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> Array:
        """A buffer of at least `nbytes`, with whatever was in it before."""
        size = max(1, -(-nbytes // GRAIN)) * GRAIN
        with self._lock:
            fitting = [i for i, buffer in enumerate(self._free) if size <= buffer.nbytes <= 2 * size]
            if fitting:
                return self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes))
            self._make_room(size)
            self._allocated += size
        return fresh(size)

    def give(self, buffer: Array) -> None:
        with self._lock:
            self._free.append(buffer)

    def count(self, nbytes: int) -> None:
        """Counts memory that is used in place of a buffer, such as what a library reads into."""
        with self._lock:
            self._make_room(nbytes)
            self._allocated += nbytes

    def discount(self, nbytes: int) -> None:
        """Says that memory that was counted is used no more."""
        with self._lock:
            self._allocated -= nbytes

    def _make_room(self, nbytes: int) -> None:
        while self._free and self._allocated + nbytes > self._limit:
            self._allocated -= self._free.pop(0).nbytes
