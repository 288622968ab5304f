"""A file on a network as an OpenFile: whole ranges straight from there, columns by way of a temporary file."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES
from neuronmodel_worker.sources.remote.laid_columns import LaidColumns

ALIGNMENT: Final = 16
"""Tensors' bytes are copied where they lie otherwise: arrays that are not aligned are slow."""


class RemoteFile:
    """An OpenFile. `read_range` reads (position, number of bytes), at most PART_BYTES, and raises SourceChanged,
    SourceUnreadable and what is in `remote.refusals`; `interrupt` ends its waits. `pool` reads columns ahead."""

    def __init__(
        self, read_range: Callable[[int, int], Array], pool: ThreadPoolExecutor, interrupt: Callable[[], None]
    ) -> None:
        self._read_range = read_range
        self._pool = pool
        self._interrupt = interrupt
        self._columns: LaidColumns | None = None
        self._lock = threading.Lock()

    def read(self, position: int, nbytes: int, buffer: Array) -> Array:
        if nbytes <= PART_BYTES and _is_aligned(found := self._read_range(position, nbytes)):
            return found
        data = buffer[:nbytes]
        if nbytes <= PART_BYTES:
            data[:] = found
            return data
        for start in range(0, nbytes, PART_BYTES):
            part = min(PART_BYTES, nbytes - start)
            data[start : start + part] = self._read_range(position + start, part)
        return data

    def read_into(self, position: int, into: Array) -> None:
        """Small ranges that nobody prefetched, such as norms, are read at once."""
        if self._columns is None and into.nbytes <= PART_BYTES:
            into[:] = self._read_range(position, into.nbytes)
        else:
            self._laid.read_into(position, into)

    def read_columns(self, position: int, pitch: int, width: int, into: Array) -> None:
        self._laid.read_columns(position, pitch, width, into)

    def prefetch(self, position: int, nbytes: int) -> None:
        self._laid.begin(position, position + nbytes)

    def forget(self, position: int, nbytes: int) -> None:
        if self._columns is not None:
            self._columns.forget(position, nbytes)

    @property
    def _laid(self) -> LaidColumns:
        with self._lock:
            if self._columns is None:
                self._columns = LaidColumns(self._read_range, PART_BYTES, self._pool)
            return self._columns

    def check_unchanged(self) -> None:
        """What is read is named by its revision, which does not change."""

    def interrupt(self) -> None:
        self._interrupt()

    def close(self) -> None:
        if self._columns is not None:
            self._columns.close()


def _is_aligned(data: Array) -> bool:
    """Whether elements of any type may begin at its first byte."""
    return data.ctypes.data % ALIGNMENT == 0
