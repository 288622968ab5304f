"""Reads a checkpoint's tensors in chunks, every byte once, and notices when the files have changed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

import numpy as np

from neuronmodel_worker.checkpoint import SourceFile, TensorSource
from neuronmodel_worker.failures import SourceChanged, SourceUnreadable
from neuronmodel_worker.layouts.geometry import as_matrix, row_bytes
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream.buffers import Buffers
from neuronmodel_worker.stream.direct_io import SLACK, EndsEarly, ReadableFile
from neuronmodel_worker.stream.dtypes import STORAGE, Array
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.observers import SourceObserver
from neuronmodel_worker.stream.prefetch import OBSERVED_BYTES, observed_at_once
from neuronmodel_worker.stream.schedule import Chunk


class SourceReader:
    """The open files of a plan's checkpoint. Raises SourceChanged or SourceUnreadable."""

    def __init__(
        self, plan: StreamedPlan, meter: Meter, buffers: Buffers, observer: SourceObserver | None = None
    ) -> None:
        self._observer, self.is_observed = observer, observer is not None
        self._meter = meter
        self._buffers = buffers
        self._files: dict[SourceFile, ReadableFile] = {}
        self.factors: dict[str, Array] = {}
        try:
            for read in plan.reads.values():
                if read.source.file not in self._files:
                    self._files[read.source.file] = open_source(read.source.file)
            self._read_factors(plan)
        except BaseException:
            self.close()
            raise

    def _read_factors(self, plan: StreamedPlan) -> None:
        """Read the vectors that others are multiplied by: they are needed again and again, and small, so they are
        kept."""
        for name in {part.factor.name for target in plan.targets for part in target.parts() if part.factor}:
            source = plan.reads[name].source
            self.factors[name] = np.empty(source.nbytes, np.uint8)
            with self._meter.reading(source.nbytes), source_errors(source.file):
                self._files[source.file].read_cached(source.offset, self.factors[name])
            if self._observer:
                self._observer.observe(source, 0, self.factors[name])

    def read(self, chunk: Chunk, observe: bool = True) -> tuple[Array, Array]:
        """A chunk's matrix, [rows, columns] in storage form, and the buffer that holds it, to be given back. Without
        `observe` the observer sees these bytes when they are fetched."""
        source, nbytes = chunk.source, chunk.nbytes
        start = chunk.row * row_bytes(source)
        buffer = self._buffers.take(nbytes + SLACK)
        if source.name in self.factors:
            data = buffer[:nbytes]
            data[:] = self.factors[source.name][start : start + nbytes]
        else:
            with self._meter.reading(nbytes), source_errors(source.file):
                if chunk.whole_rows:
                    data = self._files[source.file].read(source.offset + start, nbytes, buffer)
                else:
                    data = self._read_columns(chunk, buffer[:nbytes])
            if self._observer and observe:
                self._observer.observe(source, start, data)
        return data.view(STORAGE[source.dtype]).reshape(chunk.rows, chunk.columns), buffer

    def _read_columns(self, chunk: Chunk, data: Array) -> Array:
        """Read some columns of many rows through the page cache, where passes over the other columns find the rows."""
        source, width, each = chunk.source, row_bytes(chunk.source), chunk.nbytes // chunk.rows
        file = self._files[source.file]
        position = source.offset + chunk.row * width + chunk.column * (width // as_matrix(source.shape)[1])
        view, descriptor, read = data.data, file.cached, os.preadv
        for at in range(0, chunk.nbytes, each):
            if read(descriptor, [view[at : at + each]], position) < each:
                file.read_cached(position, data[at : at + each])
            position += width
        return data

    def fetch(self, source: TensorSource, start: int, nbytes: int) -> None:
        """Have bytes of a tensor read into the page cache, and wait for the last of them. Without an observer, an error
        is left to the thread that reads the tensor."""
        file, position = self._files[source.file], source.offset + start
        if self._observer:
            self._observe_fetched(self._observer, source, start, nbytes)
            return
        with suppress(OSError, EndsEarly):
            file.fetch(position, nbytes)
            file.read_cached(position + nbytes - 1, np.empty(1, np.uint8))

    def _observe_fetched(self, observer: SourceObserver, source: TensorSource, start: int, nbytes: int) -> None:
        file, end = self._files[source.file], start + nbytes
        buffer = self._buffers.take(observed_at_once(source))
        with source_errors(source.file):
            file.fetch(source.offset + start, nbytes)
        for at in range(start, end, OBSERVED_BYTES):
            data = buffer[: min(OBSERVED_BYTES, end - at)]
            with source_errors(source.file):
                file.read_cached(source.offset + at, data)
            observer.observe(source, at, data)
        self._buffers.give(buffer)

    def forget(self, source: TensorSource) -> None:
        """Tell the system that the page cache need not keep a tensor."""
        self._files[source.file].forget(source.offset, source.nbytes)

    def check_unchanged(self) -> None:
        """Raises SourceChanged if a file was written or replaced while it was read."""
        for file, opened in self._files.items():
            check_unchanged(file, opened)

    def close(self) -> None:
        for opened in self._files.values():
            opened.close()
        self._files.clear()

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_source(file: SourceFile) -> ReadableFile:
    """Open a file. Raises SourceChanged if it has changed since its header was read, and SourceUnreadable."""
    with source_errors(file):
        opened = ReadableFile(file.path)
        try:
            for descriptor in opened.descriptors:
                _compare(file, os.fstat(descriptor))
        except BaseException:
            opened.close()
            raise
    return opened


def check_unchanged(file: SourceFile, opened: ReadableFile) -> None:
    """Raises SourceChanged for an open file that was written or replaced since its header was read."""
    _compare(file, os.fstat(opened.cached))
    try:
        _compare(file, file.path.stat())
    except OSError as error:
        raise SourceChanged(file.path, "it is no longer there") from error


@contextmanager
def source_errors(file: SourceFile) -> Iterator[None]:
    """Turns errors of reading `file` into SourceChanged or SourceUnreadable."""
    try:
        yield
    except EndsEarly as end:
        raise SourceChanged(file.path, f"{end} and was {file.nbytes:,} bytes long") from end
    except OSError as error:
        raise SourceUnreadable(file.path, error) from error


def _compare(file: SourceFile, stat: os.stat_result) -> None:
    if stat.st_size != file.nbytes:
        raise SourceChanged(file.path, f"it is {stat.st_size:,} bytes long and was {file.nbytes:,}")
    if stat.st_mtime_ns != file.mtime_ns:
        raise SourceChanged(file.path, "its modification time is another one")
