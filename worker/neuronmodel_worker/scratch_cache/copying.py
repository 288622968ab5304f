"""Writes copies of files from the bytes that a load reads anyway, in bounded memory and without delaying the load.

A piece for which no buffer is free is skipped, and read again by `complete` when the model already answers. A slow
scratch volume therefore costs the load nothing.
"""

import bisect
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.io.aligned import SLACK, fresh, placed
from neuronmodel_worker.io.direct_io import EndsEarly, ReadableFile
from neuronmodel_worker.io.disk import BLOCK, NOT_DIRECT, allocate, open_direct
from neuronmodel_worker.io.priority import use_idle_priority
from neuronmodel_worker.scratch_cache.errors import OriginalChanged, TierError, writing_copy
from neuronmodel_worker.stream.writeback import Writeback

PIECE_BYTES: Final = 16 << 20
PIECES: Final = 12
"""The number of buffers: 192 MiB in all."""
WRITERS: Final = 4

Bytes = NDArray[np.uint8]


class Extents:
    """The parts of a file that have been written."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int]] = []

    def add(self, start: int, stop: int) -> None:
        first = bisect.bisect_left(self._parts, start, key=lambda part: part[1])
        last = bisect.bisect_right(self._parts, stop, key=lambda part: part[0])
        touching = self._parts[first:last]
        if touching:
            start, stop = min(start, touching[0][0]), max(stop, touching[-1][1])
        self._parts[first:last] = [(start, stop)]

    def gaps(self, nbytes: int) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the parts that are missing from a file of `nbytes`."""
        position = 0
        for start, stop in [*self._parts, (nbytes, nbytes)]:
            if start > position:
                yield position, start
            position = stop


class CopiedFile:
    """A file that several threads write in pieces, in any order. Methods raise OSError."""

    def __init__(self, path: Path, nbytes: int, writeback: Writeback) -> None:
        self.path = path
        self.nbytes = nbytes
        self.written = Extents()
        self._writeback = writeback
        self._lock = threading.Lock()
        self._direct: int | None = None
        self._cached = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o660)
        try:
            allocate(self._cached, nbytes)
            self._direct = open_direct(path, os.O_WRONLY)
        except BaseException:
            self.close()
            raise

    def write(self, position: int, data: Bytes) -> None:
        """Writes whole blocks that are aligned alike in memory and file past the page cache, and the rest through
        it."""
        head = min(-position % BLOCK, data.nbytes)
        body = (data.nbytes - head) // BLOCK * BLOCK
        done = head
        if body and (data.ctypes.data + head) % BLOCK == 0:
            done += self._write_direct(position + head, data[head : head + body])
        for start, stop in ((0, head), (done, data.nbytes)):
            self._write_cached(position + start, data[start:stop])
        with self._lock:
            self.written.add(position, position + data.nbytes)

    def _write_direct(self, position: int, data: Bytes) -> int:
        """Returns how many bytes were written; fewer than all if the file system stops accepting direct writes."""
        done = 0
        while self._direct is not None and done < data.nbytes and done % BLOCK == 0:
            try:
                done += os.pwrite(self._direct, data[done:].data, position + done)
            except OSError as error:
                if error.errno not in NOT_DIRECT:
                    raise
                break
        return done

    def _write_cached(self, position: int, data: Bytes) -> None:
        view, at = data.data, position
        while view:
            count = os.pwrite(self._cached, view, at)
            view, at = view[count:], at + count
        if data.nbytes > BLOCK:
            self._writeback.wrote(self._cached, position, data.nbytes)

    def gaps(self) -> list[tuple[int, int]]:
        with self._lock:
            return list(self.written.gaps(self.nbytes))

    def close(self) -> None:
        for descriptor in (self._direct, self._cached):
            if descriptor is not None:
                os.close(descriptor)


class ReadOriginal(Protocol):
    def __call__(self, position: int, nbytes: int, buffer: Bytes) -> Bytes:
        """The bytes from `position` on, in `buffer`, which has SLACK more bytes. Raises OriginalChanged."""
        ...


class Original(Protocol):
    """A file to copy, in its state when the load began."""

    @property
    def nbytes(self) -> int: ...

    def opened(self) -> AbstractContextManager[ReadOriginal]:
        """Raises OriginalChanged."""
        ...

    def check_unchanged(self) -> None:
        """Raises OriginalChanged."""
        ...


@dataclass(frozen=True, slots=True)
class LocalOriginal:
    """An Original on a volume."""

    path: Path
    nbytes: int
    mtime_ns: int

    @classmethod
    def at(cls, path: Path) -> "LocalOriginal":
        """Raises OSError."""
        stat = path.stat()
        return cls(path, stat.st_size, stat.st_mtime_ns)

    @contextmanager
    def opened(self) -> Iterator[ReadOriginal]:
        with self._changed_if_unreadable():
            file = ReadableFile(self.path)

        def read(position: int, nbytes: int, buffer: Bytes) -> Bytes:
            with self._changed_if_unreadable():
                return file.read(position, nbytes, buffer)

        with file:
            yield read

    def check_unchanged(self) -> None:
        try:
            is_unchanged = self == LocalOriginal.at(self.path)
        except OSError:
            is_unchanged = False
        if not is_unchanged:
            raise OriginalChanged(self.path, "its size or modification time is another one")

    @contextmanager
    def _changed_if_unreadable(self) -> Iterator[None]:
        try:
            yield
        except EndsEarly as end:
            raise OriginalChanged(self.path, str(end)) from end
        except OSError as error:
            raise OriginalChanged(self.path, error.strerror or str(error)) from error


class CopyWriter:
    """Copies `originals`, given by their names in the copy, to `directory`. `observe` may be called by any thread, and
    neither fails nor waits; `complete` does both."""

    def __init__(self, directory: Path, originals: Mapping[str, Original], pieces: int = PIECES) -> None:
        """Allocates the files. Raises TierError."""
        self._originals = originals
        self._files: dict[str, CopiedFile] = {}
        self._error: Exception | None = None
        self._free: queue.SimpleQueue[Bytes | None] = queue.SimpleQueue()
        for _ in range(pieces):
            self._free.put(None)
        writeback = Writeback()
        with writing_copy(directory):
            try:
                for name, original in originals.items():
                    path = directory / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._files[name] = CopiedFile(path, original.nbytes, writeback)
            except BaseException:
                self._close()
                raise
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="copy", initializer=use_idle_priority)

    def observe(self, file_name: str, position: int, data: Bytes) -> None:
        """Takes the bytes of a file from `position` on; they are copied to a buffer before this returns."""
        file = self._files.get(file_name)
        if file is None:
            return
        for start in range(0, data.nbytes, PIECE_BYTES):
            if self._error:
                return
            piece = data[start : start + PIECE_BYTES]
            try:
                buffer = self._free.get_nowait()
            except queue.Empty:
                return
            if buffer is None:
                buffer = fresh(PIECE_BYTES + SLACK)
            into = placed(buffer, position + start, piece.nbytes)
            into[:] = piece
            with suppress(RuntimeError):  # the copy was aborted in the meantime
                self._writers.submit(self._write, file, position + start, into, buffer)

    def _write(self, file: CopiedFile, position: int, data: Bytes, buffer: Bytes) -> None:
        try:
            file.write(position, data)
        except Exception as error:
            self._error = error
        finally:
            self._free.put(buffer)

    @property
    def missing_bytes(self) -> int:
        """How much `complete` will read again; exact only while nothing is being written."""
        return sum(stop - start for file in self._files.values() for start, stop in file.gaps())

    def complete(self, directory: Path, wait: Callable[[], None]) -> None:
        """Waits for pending writes, and reads what is missing from the originals, which have to be unchanged.

        It calls `wait` before each piece. Raises TierError, and what `wait` raises.
        """
        self._writers.shutdown()
        try:
            with writing_copy(directory):
                if self._error:
                    raise self._error
                for name, file in self._files.items():
                    self._fill(self._originals[name], file, wait)
            for original in self._originals.values():
                original.check_unchanged()
        finally:
            self._close()

    def _fill(self, original: Original, file: CopiedFile, wait: Callable[[], None]) -> None:
        gaps = file.gaps()
        if not gaps:
            return
        buffer = fresh(PIECE_BYTES + SLACK)
        with original.opened() as read:
            for start, stop in gaps:
                for position in range(start, stop, PIECE_BYTES):
                    wait()
                    file.write(position, read(position, min(PIECE_BYTES, stop - position), buffer))

    def abort(self) -> None:
        self._error = TierError(Reason.SCRATCH_TIER_ABORTED, "The copy was given up.")
        self._writers.shutdown(cancel_futures=True)
        self._close()

    def _close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()
