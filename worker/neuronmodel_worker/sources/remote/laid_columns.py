"""Where the bytes of a tensor lie that is read column by column, while several passes are made over it.

Over a network a column would be thousands of small ranges. So whole ranges are read once, in big parts, and written to
a file without a name in the temporary folder, at the position that they have in the source's file; passes find them in
the page cache, or on the disk, as those of a folder do.
"""

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import BLOCK, punch_hole
from neuronmodel_worker.sources.remote.refusals import NoRoomForColumns

ReadPart = Callable[[int, int], Array]
"""Reads (position, number of bytes) of the source's file."""

FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class LaidColumns:
    """The ranges of one file. Its methods may be called by several threads; each range is read once, by `pool`."""

    def __init__(self, read: ReadPart, part_bytes: int, pool: ThreadPoolExecutor) -> None:
        self._read = read
        self._part_bytes = part_bytes
        self._pool = pool
        self._file = tempfile.TemporaryFile(prefix="neuronmodel-columns-")  # noqa: SIM115
        self._laid: list[tuple[int, int, Future[None]]] = []
        """Ranges (first, end) that are there or under way, without overlaps and in no order."""
        self._forgets = 0
        """How often ranges were given back."""
        self._lock = threading.Lock()

    def begin(self, first: int, end: int) -> list["Future[None]"]:
        """Begins to read what is missing from `first` to `end`; returns what has to be waited for."""
        with self._lock:
            self._laid += [
                (start, stop, self._pool.submit(self._lay_part, start, stop))
                for start, stop in self._missing(first, end)
            ]
            return [done for start, stop, done in self._laid if start < end and first < stop]

    def lay(self, first: int, end: int) -> None:
        """Waits until the bytes from `first` to `end` are there. Raises what reading raises, and NoRoomForColumns; what
        failed is read again the next time."""
        waited = self.begin(first, end)
        try:
            for done in waited:
                done.result()
        except BaseException:
            with self._lock:
                self._laid = [each for each in self._laid if not (each[2].done() and each[2].exception())]
            raise

    def _missing(self, first: int, end: int) -> list[tuple[int, int]]:
        """The parts of a range that are neither there nor under way, none larger than a part."""
        found, at = [], first
        for start, stop, _ in sorted((each for each in self._laid if each[0] < end and first < each[1]), key=_first):
            found += self._parts(at, start)
            at = max(at, stop)
        return found + self._parts(at, end)

    def _parts(self, first: int, end: int) -> list[tuple[int, int]]:
        return [(start, min(end, start + self._part_bytes)) for start in range(first, end, self._part_bytes)]

    def _lay_part(self, start: int, stop: int) -> None:
        view, at = self._read(start, stop - start).data, start
        while view:
            try:
                count = os.pwrite(self._file.fileno(), view, at)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise NoRoomForColumns(tempfile.gettempdir(), stop - start) from error
            view, at = view[count:], at + count

    def read_into(self, position: int, into: Array) -> None:
        """Reads a range, which is laid first where it is not there."""
        self._read_while_there(position, position + into.nbytes, lambda: self._read_laid(position, into))

    def read_columns(self, position: int, pitch: int, width: int, into: Array) -> None:
        rows = into.nbytes // width

        def read() -> None:
            for row in range(rows):
                self._read_laid(position + row * pitch, into[row * width : (row + 1) * width])

        self._read_while_there(position, position + (rows - 1) * pitch + width, read)

    def _read_while_there(self, first: int, end: int, read: Callable[[], None]) -> None:
        """Reads a range until nothing was given back meanwhile: a hole reads as zeros."""
        before = -1
        while before != self._forgets:
            before = self._forgets
            self.lay(first, end)
            read()

    def _read_laid(self, position: int, into: Array) -> None:
        view = into.data
        while view:
            count = os.preadv(self._file.fileno(), [view], position)
            if not count:
                raise OSError(errno.EIO, "what was laid there is gone")
            view, position = view[count:], position + count

    def forget(self, position: int, nbytes: int) -> None:
        """Gives the room of the parts within a range back."""
        end = position + nbytes
        with self._lock:
            self._forgets += 1
            gone = sorted((each for each in self._laid if position <= each[0] and each[1] <= end), key=_first)
            self._laid = [each for each in self._laid if each not in gone]
            for first, last in _joined((start, stop) for start, stop, _ in gone):
                inside, rest = -(-first // BLOCK) * BLOCK, last // BLOCK * BLOCK
                if inside < rest:
                    punch_hole(self._file.fileno(), inside, rest - inside)

    def close(self) -> None:
        """Waits for reads that are under way: the descriptor's number may be that of another file afterwards."""
        with self._lock:
            under_way = [done for _, _, done in self._laid if not done.cancel()]
        wait(under_way)
        self._file.close()


def _first(laid: tuple[int, int, "Future[None]"]) -> int:
    return laid[0]


def _joined(parts: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Parts in their order, those that follow each other as one: their blocks have bytes of both."""
    first = end = -1
    for start, stop in parts:
        if start != end:
            if end >= 0:
                yield first, end
            first = start
        end = stop
    if end >= 0:
        yield first, end
