"""Queue, memory and threads without what they are for: reads that take as long as drives of `bytes_per_second` together
would, kernels that do nothing, files that are not written. What is left is what Python costs, and of
that the steps are the queue of tasks and laying these out.

And what it is held to: the same reads by plain threads.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from hack.bench.contenders.step_times import Replacements, StepTimes, replaced
from hack.bench.contenders.task import Steps, Task, Timed
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.plan.streamed import StreamedPlan, make_plan
from neuronmodel_worker.sources import Folder, OpenFile, SourceFile
from neuronmodel_worker.stream import Sizes, buffer_bytes, run
from neuronmodel_worker.stream.buffers import Buffers
from neuronmodel_worker.stream.execution import StreamThreads
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.schedule import Counterparts
from neuronmodel_worker.stream.steps import Step
from neuronmodel_worker.stream.task_queue import TaskQueue


class Drives:
    """One read after the other, each as long as it takes at the rate; as with real ones, threads wait for them."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def transfer(self, nbytes: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + nbytes / self._rate
            seconds = self._free_at - time.monotonic()
        if seconds > 0:
            time.sleep(seconds)


class _File:
    """A file of which nothing is read: the time passes."""

    def __init__(self, drives: Drives) -> None:
        self._drives = drives
        self._fetched: dict[int, int] = {}
        self._in_page_cache = 0
        """Bytes that columns have brought there before they were prefetched."""

    def read(self, position: int, nbytes: int, buffer: Array) -> Array:
        self._drives.transfer(nbytes)
        return buffer[:nbytes]

    def read_into(self, position: int, into: Array) -> None:
        """Of what was prefetched."""

    def read_columns(self, position: int, pitch: int, width: int, into: Array) -> None:
        """Waits for what was not prefetched."""
        if not any(start <= position < end for start, end in list(self._fetched.items())):
            self._in_page_cache += into.nbytes
            self._drives.transfer(into.nbytes)

    def prefetch(self, position: int, nbytes: int) -> None:
        there = min(nbytes, self._in_page_cache)
        self._in_page_cache -= there
        self._drives.transfer(nbytes - there)
        self._fetched[position] = position + nbytes

    def forget(self, position: int, nbytes: int) -> None: ...

    def interrupt(self) -> None: ...

    def check_unchanged(self) -> None: ...

    def close(self) -> None: ...


def _on(drives: Drives, folder: Path) -> Folder:
    class OnDrives(Folder):
        def open(self, file: SourceFile) -> OpenFile:  # type: ignore[override]
            return _File(drives)

    return OnDrives(folder)


class _Nowhere:
    """A sink that lends buffers as files do, and drops what is put."""

    buffered, waits, seals = True, True, False
    most_bytes = 0
    """The most that all buffers of the run took up."""

    def open(
        self,
        plan: StreamedPlan,
        meter: Meter,
        buffers: Buffers,
        rank_indices: Sequence[int],
        check_source: Callable[[], None],
    ) -> None:
        self._buffers, self._lent = buffers, dict[int, Array]()

    def frame(self, step: Step) -> Array:
        buffer = self._lent[id(step)] = self._buffers.take(step.buffer_bytes)
        self.most_bytes = max(self.most_bytes, self._buffers.allocated_bytes)
        stored = buffer[: step.nbytes].view("u2")
        return stored.reshape(step.columns, step.rows).T if step.target.transposed else stored.reshape(step.rows, -1)

    def put(self, step: Step, frame: Array) -> None:
        self._buffers.give(self._lent.pop(id(step)))

    def put_unchanged(self, step: Step, rows: Array) -> bool:
        return False

    def finish(self) -> tuple[WrittenFile, ...]:
        return ()

    def abort(self) -> None: ...


def prepare(task: Task) -> Timed:
    """`threads`, `bytes_per_second`; with `alone` the reads alone."""
    threads, drives = task.options["threads"], Drives(task.options["bytes_per_second"])
    checkpoint = open_checkpoint(task.source)
    plan = make_plan(replace(checkpoint, source=_on(drives, task.source)), task.neuron_config)
    if task.options.get("alone"):
        return lambda: _read(plan.source_bytes, drives, threads)
    forecast = buffer_bytes(plan, threads=threads)

    def schedule() -> Steps:
        sink, steps = _Nowhere(), StepTimes()
        put: Replacements = (
            (StreamThreads, "copy", lambda *_: None),
            (TaskQueue, "take", steps.measured(TaskQueue.take, "queue")),
            (Counterparts, "move", steps.measured(Counterparts.move, "tasks")),
        )
        with replaced(put):
            run(plan, sink, threads=threads)
        if sink.most_bytes > forecast:
            raise RuntimeError(f"Buffers took up {sink.most_bytes:,} bytes, and {forecast:,} were forecast.")
        return dict(steps.seconds)

    return schedule


def _read(nbytes: int, drives: Drives, threads: int) -> None:
    each = Sizes().chunk_bytes
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda start: drives.transfer(min(each, nbytes - start)), range(0, nbytes, each)):
            pass
