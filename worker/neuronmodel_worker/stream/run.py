"""Runs a plan: reads every source byte once, in bounded memory, into whichever sink."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from neuronmodel_worker.disk import WrittenFile
from neuronmodel_worker.layouts.geometry import Part, Piece, Target
from neuronmodel_worker.plan import Plan
from neuronmodel_worker.stream.meter import Meter, Progress
from neuronmodel_worker.stream.numbers import STORAGE, Array, fill
from neuronmodel_worker.stream.sinks import Sink
from neuronmodel_worker.stream.source import Buffers, Chunks, SourceReader
from neuronmodel_worker.stream.steps import Sizes, Step, steps, units

# More gain nothing on one drive; each holds a few chunks.
THREADS = 4


@dataclass(frozen=True, slots=True)
class StreamResult:
    """`busy…Seconds` are wall time in which at least one thread was reading or writing."""

    bytes_read: int
    bytes_written: int
    seconds: float
    busy_reading_seconds: float
    busy_writing_seconds: float
    files: tuple[WrittenFile, ...]


def run(
    plan: Plan,
    sink: Sink,
    progress: Progress | None = None,
    *,
    threads: int = THREADS,
    sizes: Sizes | None = None,
) -> StreamResult:
    """Fill `sink` as the plan says; on failure the sink is left as if nothing had been.

    Raises SourceChanged or SourceUnreadable, and what the sink raises.
    """
    started, meter, sizes = time.monotonic(), Meter(progress), sizes or Sizes()
    try:
        with SourceReader(plan, meter, sizes.chunk_bytes) as reader:
            sink.open(plan, meter)
            _Run(plan, sink, reader, sizes).everything(threads)
            reader.check_unchanged()
        files = sink.finish()
    except BaseException:
        sink.abort()
        raise
    return StreamResult(
        bytes_read=meter.bytes_read,
        bytes_written=meter.bytes_written,
        seconds=time.monotonic() - started,
        busy_reading_seconds=meter.read_clock.seconds,
        busy_writing_seconds=meter.write_clock.seconds,
        files=files,
    )


@dataclass
class _Run:
    plan: Plan
    sink: Sink
    reader: SourceReader
    sizes: Sizes
    buffers: Buffers = field(default_factory=Buffers)
    stopped: threading.Event = field(default_factory=threading.Event)

    def everything(self, threads: int) -> None:
        with ThreadPoolExecutor(threads, thread_name_prefix="stream") as pool:
            futures = [pool.submit(self._unit, unit) for unit in units(self.plan)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                self.stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _unit(self, targets: tuple[Target, ...]) -> None:
        ordered = steps(targets, len(self.plan.ranks), self.sizes)
        chunks = Chunks(self.reader, self.buffers, ordered)
        for step in ordered:
            if self.stopped.is_set():
                return
            self._step(step, chunks)

    def _step(self, step: Step, chunks: Chunks) -> None:
        with self.sink.frame(step) as frame:
            for part, piece in step.cuts:
                for row, rows in chunks.rows(part.source, piece.row, piece.rows):
                    source = rows[:, piece.column : piece.column + piece.columns]
                    top, left = piece.at_row + row, piece.at_column
                    into = frame[top : top + len(rows), left : left + piece.columns]
                    fill(into, step.target.dtype, source, part.source.dtype, self._factor(part, piece))

    def _factor(self, part: Part, piece: Piece) -> tuple[Array, str] | None:
        if part.factor is None:
            return None
        vector = self.reader.factors[part.factor.name].view(STORAGE[part.factor.dtype])
        return vector[piece.column : piece.column + piece.columns], part.factor.dtype
