"""Reads a checkpoint's tensors in chunks, every byte once, and notices when the files have changed."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType

import numpy as np

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.failures import SourceChanged, SourceUnreadable
from neuronmodel_worker.io.aligned import SLACK, Array, fresh
from neuronmodel_worker.layouts.geometry import as_matrix, row_bytes
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.sources import OpenFile, SourceFile
from neuronmodel_worker.stream.buffers import Buffers
from neuronmodel_worker.stream.dtypes import STORAGE
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.observers import SourceObserver
from neuronmodel_worker.stream.prefetch import OBSERVED_BYTES, observed_at_once, prefetched_at_once
from neuronmodel_worker.stream.schedule import Chunk


class SourceReader:
    """The open files of a plan's checkpoint. Raises SourceChanged or SourceUnreadable."""

    def __init__(
        self, plan: StreamedPlan, meter: Meter, buffers: Buffers, observer: SourceObserver | None = None
    ) -> None:
        self._observer, self.is_observed = observer, observer is not None
        self.piece_bytes = prefetched_at_once(plan.checkpoint.source.parallel_reads)
        self._meter = meter
        self._buffers = buffers
        self._files: dict[SourceFile, OpenFile] = {}
        self.factors: dict[str, Array] = {}
        try:
            for read in plan.reads.values():
                if read.source.file not in self._files:
                    self._files[read.source.file] = plan.checkpoint.source.open(read.source.file)
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
            with self._meter.reading(source.nbytes):
                self._files[source.file].read_into(source.offset, self.factors[name])
            if self._observer:
                self._observer.observe(source, 0, self.factors[name])

    def is_read_ahead(self, chunk: Chunk) -> bool:
        """Whether a chunk may be read before a thread needs it: not what is kept, or is read column by column."""
        return chunk.whole_rows and chunk.source.name not in self.factors

    def read_ahead(self, chunk: Chunk) -> Array:
        """The bytes of such a chunk, in memory of their own, for `taken`."""
        with self._meter.reading(chunk.nbytes):
            position = chunk.source.offset + chunk.row * row_bytes(chunk.source)
            return self._files[chunk.source.file].read(position, chunk.nbytes, fresh(chunk.nbytes + SLACK))

    def taken(self, chunk: Chunk, data: Array, observe: bool = True) -> tuple[Array, Callable[[], None]]:
        """What `read` returns, of bytes that were read ahead."""
        self._buffers.count(chunk.nbytes)
        if self._observer and observe:
            self._observer.observe(chunk.source, chunk.row * row_bytes(chunk.source), data)
        return _matrix(chunk, data), partial(self._buffers.discount, chunk.nbytes)

    def read(self, chunk: Chunk, observe: bool = True) -> tuple[Array, Callable[[], None]]:
        """A chunk's matrix, [rows, columns] in storage form, and what gives its memory back. Without `observe` the
        observer sees these bytes when they are fetched."""
        source, nbytes = chunk.source, chunk.nbytes
        start = chunk.row * row_bytes(source)
        buffer = self._buffers.take(chunk.buffer_bytes)
        if source.name in self.factors:
            data = buffer[:nbytes]
            data[:] = self.factors[source.name][start : start + nbytes]
        else:
            with self._meter.reading(nbytes):
                if chunk.whole_rows:
                    data = self._files[source.file].read(source.offset + start, nbytes, buffer)
                else:
                    data = self._read_columns(chunk, buffer[:nbytes])
            if self._observer and observe:
                self._observer.observe(source, start, data)
        return _matrix(chunk, data), partial(self._buffers.give, buffer)

    def _read_columns(self, chunk: Chunk, data: Array) -> Array:
        """Read some columns of many rows; passes over the other columns read the rest."""
        source, pitch = chunk.source, row_bytes(chunk.source)
        position = source.offset + chunk.row * pitch + chunk.column * (pitch // as_matrix(source.shape)[1])
        self._files[source.file].read_columns(position, pitch, chunk.nbytes // chunk.rows, data)
        return data

    def fetch(self, source: TensorSource, start: int, nbytes: int) -> None:
        """Prefetch bytes of a tensor, and wait for the last. Without an observer, an error is left to the thread
        that reads the tensor."""
        file, position = self._files[source.file], source.offset + start
        if self._observer:
            self._observe_fetched(self._observer, source, start, nbytes)
            return
        with suppress(SourceChanged, SourceUnreadable):
            file.prefetch(position, nbytes)
            file.read_into(position + nbytes - 1, np.empty(1, np.uint8))

    def _observe_fetched(self, observer: SourceObserver, source: TensorSource, start: int, nbytes: int) -> None:
        file, end = self._files[source.file], start + nbytes
        buffer = self._buffers.take(observed_at_once(source))
        file.prefetch(source.offset + start, nbytes)
        for at in range(start, end, OBSERVED_BYTES):
            data = buffer[: min(OBSERVED_BYTES, end - at)]
            file.read_into(source.offset + at, data)
            observer.observe(source, at, data)
        self._buffers.give(buffer)

    def forget(self, source: TensorSource) -> None:
        """Say that a tensor is not read again."""
        self._files[source.file].forget(source.offset, source.nbytes)

    def interrupt(self) -> None:
        """Make reads that wait for the source fail soon: the run is over."""
        for opened in self._files.values():
            opened.interrupt()

    def check_unchanged(self) -> None:
        """Raises SourceChanged if a file was written or replaced while it was read."""
        for opened in self._files.values():
            opened.check_unchanged()

    def close(self) -> None:
        for opened in self._files.values():
            opened.close()
        self._files.clear()

    def __enter__(self) -> "SourceReader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _matrix(chunk: Chunk, data: Array) -> Array:
    return data.view(STORAGE[chunk.source.dtype]).reshape(chunk.rows, chunk.columns)
