"""Runs a plan: reads every source byte once, in bounded memory, into a sink."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.cgroups import usable_processors
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream.buffers import Buffers, total_bytes
from neuronmodel_worker.stream.casting import fill
from neuronmodel_worker.stream.dtypes import STORAGE
from neuronmodel_worker.stream.meter import Meter, StreamProgress
from neuronmodel_worker.stream.observers import SourceObserver
from neuronmodel_worker.stream.read_ahead import ReadAhead
from neuronmodel_worker.stream.schedule import Chunk, ChunkCopy, Move, Task, Visit, Workload, most_memory, tasks
from neuronmodel_worker.stream.sinks import Sink
from neuronmodel_worker.stream.source_reader import SourceReader
from neuronmodel_worker.stream.steps import Sizes, Step, every_rank
from neuronmodel_worker.stream.task_queue import TaskQueue

FEWEST_THREADS: Final = 4
"""Enough to read, write and copy at the same time on one processor."""


def streaming_threads(sizes: Sizes | None = None, *, waiting: bool = True) -> int:
    """How many threads run a plan: two for each usable processor, as about half of them wait for the drives, but no
    more than can have a chunk each in the memory of a run. Over a network, `ReadAhead` has more that only read.

    Where all is in memory, nobody is `waiting`, and one for each processor is enough.
    """
    most = most_streaming_threads(sizes)
    if not waiting:
        return min(usable_processors(), most)
    return max(FEWEST_THREADS, min(2 * usable_processors(), most))


def most_streaming_threads(sizes: Sizes | None = None) -> int:
    """As many threads as ever have something to do at a time, on any machine: more would wait for memory."""
    sizes = sizes or Sizes()
    return sizes.memory_bytes // sizes.chunk_bytes


@dataclass(frozen=True, slots=True)
class StreamResult:
    """The figures of a run. `busy_…_seconds` are wall time in which at least one thread was reading or writing."""

    bytes_read: int
    bytes_written: int
    seconds: float
    busy_reading_seconds: float
    busy_writing_seconds: float
    files: tuple[WrittenFile, ...]


def run(
    plan: StreamedPlan,
    sink: Sink,
    progress: StreamProgress | None = None,
    *,
    threads: int | None = None,
    sizes: Sizes | None = None,
    rank_indices: Sequence[int] | None = None,
    observer: SourceObserver | None = None,
    observes_unneeded: bool = True,
) -> StreamResult:
    """Fill `sink` as the plan says; on failure nothing is left in the sink but the files that it sealed.

    The plan's ranks at `rank_indices` are made, all of them by default. `observer` is shown every byte of every tensor
    that the plan reads, once; bytes that none of these ranks needs are read for it alone, if it `observes_unneeded`.

    Raises SourceChanged or SourceUnreadable, and what the sink and the observer raise.
    """
    ranks = every_rank(plan) if rank_indices is None else sorted(set(rank_indices))
    started, meter, sizes = time.monotonic(), Meter(progress), sizes or Sizes()
    threads = threads or streaming_threads(sizes, waiting=sink.waits or not plan.checkpoint.source.is_in_memory)
    work = Workload(
        plan, sizes, ranks, sink.buffered, sealing=sink.seals, observed=observer is not None and observes_unneeded
    )
    buffers = Buffers(most_memory(work, threads))
    try:
        with SourceReader(plan, meter, buffers, observer) as reader, _read_ahead(plan, reader) as ahead:
            sink.open(plan, meter, buffers, ranks, reader.check_unchanged)
            queue = TaskQueue(tasks(work), sizes.memory_bytes, threads, reader, ahead)
            try:
                StreamThreads(sink, reader, queue, ahead).run(threads)
                queue.complete()
            finally:
                queue.end()
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


def buffer_bytes(
    plan: StreamedPlan,
    *,
    threads: int | None = None,
    sizes: Sizes | None = None,
    into_memory: bool = False,
    rank_indices: Sequence[int] | None = None,
    sealing: bool = False,
    observed: bool = False,
) -> int:
    """The most memory that the buffers of `run` take up, in addition to the tensors where those stay in memory.
    `sealing` is for a FileSink that seals, `observed` for a run with an observer."""
    ranks = every_rank(plan) if rank_indices is None else sorted(set(rank_indices))
    sizes = sizes or Sizes()
    work = Workload(plan, sizes, ranks, buffered=not into_memory, sealing=sealing, observed=observed)
    return total_bytes(most_memory(work, threads or streaming_threads(sizes))) + source_buffer_bytes(plan)


def source_buffer_bytes(plan: StreamedPlan) -> int:
    """The most memory that reads of a network take up, under way and ahead of the threads that take them."""
    return min(plan.checkpoint.source.buffer_bytes, 2 * plan.source_bytes)


@contextmanager
def _read_ahead(plan: StreamedPlan, reader: SourceReader) -> Iterator[ReadAhead | None]:
    """What reads ahead where a source needs several reads at a time."""
    if plan.checkpoint.source.parallel_reads == 1:
        yield None
        return
    ahead = ReadAhead(reader.read_ahead, reader.is_read_ahead, plan.checkpoint.source.parallel_reads)
    try:
        yield ahead
    finally:
        ahead.close()


_Held = dict[tuple[str, int, int], tuple[Array, Callable[[], None]]]
"""The chunks that a task has, each with what gives its memory back."""


@dataclass
class StreamThreads:
    """The threads of a run."""

    sink: Sink
    reader: SourceReader
    queue: TaskQueue
    ahead: ReadAhead | None
    stopped: threading.Event = field(default_factory=threading.Event)
    failure: BaseException | None = None
    """What failed first."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, threads: int) -> None:
        with ThreadPoolExecutor(threads, thread_name_prefix="stream") as pool:
            futures = [pool.submit(self._work) for _ in range(threads)]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                first = self.failure  # others fail because they are stopped
                self._stop()
                if first is None:
                    raise
                raise first from first.__cause__

    def _stop(self) -> None:
        self.stopped.set()
        self.reader.interrupt()
        self.queue.close()

    def _work(self) -> None:
        try:
            task = self.queue.take()
            while task:
                self._task(task)
                task = self.queue.take(after=task)
        except BaseException as error:
            with self.lock:
                self.failure = self.failure or error
            self._stop()
            raise

    def _task(self, task: Task) -> None:
        held: _Held = {}
        for move in task.moves:
            if self.stopped.is_set():
                return
            self._move(task, move, held)

    def _move(self, task: Task, move: Move, held: "_Held") -> None:
        if move.is_unchanged and self._move_unchanged(task, move, held):
            return
        frames = [self.sink.frame(step) for step in move.steps]
        for visit in move.visits:
            if self.stopped.is_set():
                return
            rows = self._rows(task, visit, held)
            for copy in visit.copies:
                self.copy(rows, visit.chunk.source.dtype, task, copy, move.steps[copy.step], frames[copy.step])
            del rows  # its memory is to be free when it is given back
            self._release(visit, held)
        for step, frame in zip(move.steps, frames, strict=True):
            self.sink.put(step, frame)

    def _move_unchanged(self, task: Task, move: Move, held: "_Held") -> bool:
        """Have the sink take rows of a chunk as they are. Returns false where it wants a copy."""
        (step,), (visit,) = move.steps, move.visits
        piece = visit.copies[0].piece
        rows = self._rows(task, visit, held)
        taken = self.sink.put_unchanged(step, rows[piece.row : piece.row + piece.rows])
        del rows
        if taken:
            self._release(visit, held)
        return taken

    def _rows(self, task: Task, visit: Visit, held: "_Held") -> Array:
        """The matrix of a visit's chunk, which is read when it is first needed."""
        key = visit.chunk.key
        if key not in held:
            held[key] = self._read(task, visit.chunk)
        return held[key][0]

    def _release(self, visit: Visit, held: "_Held") -> None:
        """Give a chunk's memory back after its last visit."""
        if visit.last:
            give_back = held.pop(visit.chunk.key)[1]
            give_back()

    def _read(self, task: Task, chunk: Chunk) -> tuple[Array, Callable[[], None]]:
        observe = not self.queue.fetches(chunk.source)
        data = self.ahead.take(task, chunk) if self.ahead else None
        return self.reader.read(chunk, observe) if data is None else self.reader.taken(chunk, data, observe)

    def copy(self, rows: Array, source_dtype: str, task: Task, copy: ChunkCopy, step: Step, frame: Array) -> None:
        """Copy a part of a chunk into a frame, computed on the way."""
        piece = copy.piece
        source = rows[piece.row : piece.row + piece.rows, piece.column : piece.column + piece.columns]
        into = frame[piece.at_row : piece.at_row + piece.rows, piece.at_column : piece.at_column + piece.columns]
        fill(into, step.target.dtype, source, source_dtype, self._factor(task, copy))

    def _factor(self, task: Task, copy: ChunkCopy) -> tuple[Array, str] | None:
        if copy.part.factor is None or (factor := task.part(copy).factor) is None:
            return None
        vector = self.reader.factors[factor.name].view(STORAGE[factor.dtype])
        return vector[copy.first_column : copy.first_column + copy.piece.columns], factor.dtype
