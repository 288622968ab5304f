"""Buffers that are lent and reused: fresh pages cost more time than reading the bytes that go into them."""

import threading

from neuronmodel_worker.io.aligned import Array, fresh

# Buffer sizes are multiples of this, so that a buffer can be reused for others of about its size.
GRAIN = 64 << 10
SPARE = 1 / 32
"""How much more than what is asked for all buffers may be because one is reused for something smaller."""


def total_bytes(limit_bytes: int) -> int:
    """The most that buffers take up with a limit."""
    return limit_bytes + int(SPARE * limit_bytes)


def buffer_size(nbytes: int) -> int:
    """The size of the smallest buffer that is lent for so many bytes."""
    return max(1, -(-nbytes // GRAIN)) * GRAIN


class Buffers:
    """Lends buffers that begin on a disk block. Their total stays within `total_bytes` of the limit as long as the
    `buffer_size` of what is asked for at a time stays within the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._allocated = 0
        self._excess = 0
        """By how much lent buffers are larger than the smallest that would do."""
        self._free: dict[int, list[Array]] = {}
        """By their size, of which there are few."""
        self._asked: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def allocated_bytes(self) -> int:
        """What they take up now, lent or not."""
        return self._allocated

    def take(self, nbytes: int) -> Array:
        """A buffer of at least `nbytes`, with whatever was in it before."""
        size = buffer_size(nbytes)
        with self._lock:
            buffer = self._reused(size)
            if buffer is None:
                self._make_room(size)
                self._allocated += size
        if buffer is None:
            buffer = fresh(size)
        self._asked[id(buffer)] = size
        return buffer

    def _reused(self, size: int) -> Array | None:
        """The smallest free buffer that is not much larger."""
        if size in self._free:
            return self._pop(size)
        spare = int(self._limit * SPARE) - self._excess
        fitting = [each for each in self._free if size < each <= 2 * size and each - size <= spare]
        if not fitting:
            return None
        found = min(fitting)
        self._excess += found - size
        return self._pop(found)

    def _pop(self, size: int) -> Array:
        of_size = self._free[size]
        buffer = of_size.pop()
        if not of_size:
            del self._free[size]
        return buffer

    def give(self, buffer: Array) -> None:
        with self._lock:
            self._excess -= buffer.nbytes - self._asked.pop(id(buffer))
            self._free.setdefault(buffer.nbytes, []).append(buffer)

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
            self._allocated -= self._pop(next(iter(self._free))).nbytes
