"""Reads a checkpoint's tensors in chunks, every byte once, and notices when the files are not what they were."""

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np

from neuronmodel_worker.checkpoint import SourceFile, TensorSource
from neuronmodel_worker.failures import SourceChanged, SourceUnreadable
from neuronmodel_worker.layouts.geometry import as_matrix, row_bytes
from neuronmodel_worker.plan import Plan
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.numbers import STORAGE, Array
from neuronmodel_worker.stream.steps import Step


class Buffers:
    """Memory that is used again: fresh pages cost more than the disk's bytes that go into them."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> Array:
        """The smallest buffer of at least `nbytes`."""
        with self._lock:
            fitting = [i for i, buffer in enumerate(self._free) if buffer.nbytes >= nbytes]
            if fitting:
                return self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes))
            if self._free:
                self._free.pop(0)  # too small: make room for one that fits
        return np.empty(nbytes, np.uint8)

    def give(self, buffer: Array) -> None:
        with self._lock:
            self._free.append(buffer)


class SourceReader:
    """The open files of a plan's checkpoint. Raises SourceChanged or SourceUnreadable."""

    def __init__(self, plan: Plan, meter: Meter, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self._meter = meter
        self._files: dict[SourceFile, int] = {}
        self.factors: dict[str, Array] = {}
        self.needed = {name: read.rows for name, read in plan.reads.items()}
        try:
            for read in plan.reads.values():
                if read.source.file not in self._files:
                    self._files[read.source.file] = self._open(read.source.file)
            self._read_factors(plan)
        except BaseException:
            self.close()
            raise

    def _open(self, file: SourceFile) -> int:
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceUnreadable(file.path, error) from error
        _check_unchanged(file, os.fstat(descriptor))
        return descriptor

    def _read_factors(self, plan: Plan) -> None:
        """Vectors that others are multiplied by are needed again and again, and small: they are kept."""
        for name in {part.factor.name for target in plan.targets for part in target.parts() if part.factor}:
            source = plan.reads[name].source
            self.factors[name] = np.empty(source.nbytes, np.uint8)
            self.read(source, 0, self.factors[name])

    def read(self, source: TensorSource, start: int, into: Array) -> None:
        """Fill `into` (bytes) with the tensor's bytes from `start` on."""
        view, position = into.data, source.offset + start
        with self._meter.reading(len(view)):
            while view:
                count = self._read_some(source.file, view, position)
                view, position = view[count:], position + count

    def _read_some(self, file: SourceFile, view: memoryview, position: int) -> int:
        try:
            count = os.preadv(self._files[file], [view], position)
        except OSError as error:
            raise SourceUnreadable(file.path, error) from error
        if count == 0:
            raise SourceChanged(file.path, f"it ends at byte {position:,} and was {file.nbytes:,} bytes long")
        return count

    def check_unchanged(self) -> None:
        """What was read is of one piece only if no file was written or replaced meanwhile."""
        for file, descriptor in self._files.items():
            _check_unchanged(file, os.fstat(descriptor))
            try:
                _check_unchanged(file, file.path.stat())
            except OSError as error:
                raise SourceChanged(file.path, "it is no longer there") from error

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _check_unchanged(file: SourceFile, stat: os.stat_result) -> None:
    if stat.st_size != file.nbytes:
        raise SourceChanged(file.path, f"it is {stat.st_size:,} bytes long and was {file.nbytes:,}")
    if stat.st_mtime_ns != file.mtime_ns:
        raise SourceChanged(file.path, "its modification time is another one")


class Chunks:
    """The chunks of sources that one unit's steps need. Each is read when a step first asks for it and its memory is
    given back when the last one has used it."""

    def __init__(self, reader: SourceReader, buffers: Buffers, steps: Iterable[Step]) -> None:
        self._reader = reader
        self._buffers = buffers
        self._held: dict[tuple[str, int], Array] = {}
        self._uses = Counter(
            (part.source.name, index)
            for step in steps
            for part, piece in step.cuts
            for index in self._indices(part.source, piece.row, piece.rows)
        )

    def _rows_a_chunk(self, source: TensorSource) -> int:
        return max(1, self._reader.chunk_bytes // max(1, row_bytes(source)))

    def _indices(self, source: TensorSource, row: int, rows: int) -> range:
        each = self._rows_a_chunk(source)
        return range(row // each, (row + rows - 1) // each + 1)

    def _extent(self, source: TensorSource, index: int) -> range:
        """The rows of a chunk that some rank needs."""
        each, needed = self._rows_a_chunk(source), self._reader.needed[source.name]
        return range(max(index * each, needed.start), min((index + 1) * each, needed.stop))

    def rows(self, source: TensorSource, row: int, rows: int) -> Iterator[tuple[int, Array]]:
        """Matrices that together are `rows` rows of the source, each with the number of rows that came before it.

        To be used before the next one is asked for: its memory may be filled anew.
        """
        for index in self._indices(source, row, rows):
            extent = self._extent(source, index)
            start, stop = max(row, extent.start), min(row + rows, extent.stop)
            yield start - row, self._chunk(source, index)[start - extent.start : stop - extent.start]
            self._used(source, index)

    def _chunk(self, source: TensorSource, index: int) -> Array:
        extent, columns = self._extent(source, index), as_matrix(source.shape)[1]
        buffer = self._held.get((source.name, index))
        if buffer is None:
            buffer = self._held[source.name, index] = self._read(source, extent)
        nbytes = len(extent) * row_bytes(source)
        return buffer[:nbytes].view(STORAGE[source.dtype]).reshape(len(extent), columns)

    def _read(self, source: TensorSource, extent: range) -> Array:
        start, nbytes = extent.start * row_bytes(source), len(extent) * row_bytes(source)
        buffer = self._buffers.take(nbytes)
        if source.name in self._reader.factors:
            buffer[:nbytes] = self._reader.factors[source.name][start : start + nbytes]
        else:
            self._reader.read(source, start, buffer[:nbytes])
        return buffer

    def _used(self, source: TensorSource, index: int) -> None:
        key = (source.name, index)
        self._uses[key] -= 1
        if not self._uses[key]:
            self._buffers.give(self._held.pop(key))
