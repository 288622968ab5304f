"""Which task comes next: by size, by the free memory, by what is in the page cache."""

import threading
from collections.abc import Iterator
from typing import Final

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.stream.prefetch import PageCache, Prefetcher
from neuronmodel_worker.stream.read_ahead import ReadAhead
from neuronmodel_worker.stream.schedule import Task


class TaskQueue:
    """Hands out tasks in their order, the largest of the next ones first, as long as the memory of all running tasks
    fits. A task that would never fit runs alone. Passes wait until their source is in the page cache, while there is
    another task, and leave half of the threads to other tasks: passes keep the processors busy, the others the disk."""

    AHEAD: Final = 16
    """How many units the queue looks ahead."""
    FAR_AHEAD: Final = 64
    """And where chunks are read ahead."""

    def __init__(
        self,
        units: Iterator[list[Task]],
        memory_bytes: int,
        threads: int,
        cache: PageCache,
        read_ahead: ReadAhead | None = None,
    ) -> None:
        self._units = units
        self._free = self._memory = memory_bytes
        self._waiting: list[Task] = []
        self._looked_ahead = 0
        self._closed = False
        self._changed = threading.Condition()
        self._passes, self._most_passes = 0, max(1, threads // 2)
        self._prefetcher = Prefetcher(cache, self._fetched)
        self._read_ahead = read_ahead

    def take(self) -> Task | None:
        """The next task, as soon as there is memory for it; None when there is none, or after `close`."""
        with self._changed:
            while not self._closed:
                self._look_ahead()
                if not self._waiting:
                    return None
                if task := self._choose():
                    self._waiting.remove(task)
                    self._free -= task.memory_bytes
                    self._passes += bool(task.passes_over)
                    if self._read_ahead:
                        self._read_ahead.begin(task)
                    return task
                self._changed.wait()
            return None

    def _choose(self) -> Task | None:
        delayed = None
        for task in self._waiting:
            if task.memory_bytes > self._free and self._free < self._memory:
                continue
            if not task.passes_over or (self._passes < self._most_passes and self._prefetcher.has(task.passes_over)):
                return task
            delayed = delayed or task
        return delayed if all(task.passes_over for task in self._waiting) else None

    def _look_ahead(self) -> None:
        if len(self._waiting) > self._looked_ahead // 2:
            return
        for _, unit in zip(range(self.FAR_AHEAD if self._read_ahead else self.AHEAD), self._units, strict=False):
            self._waiting += unit
            for task in unit:
                self._prefetcher.want(task.passes_over)
        self._waiting.sort(key=lambda task: (task.order, not task.passes_over, -task.nbytes))
        self._looked_ahead = len(self._waiting)
        if self._read_ahead:
            self._read_ahead.expect(self._waiting)

    def _fetched(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def done(self, task: Task) -> None:
        with self._changed:
            self._free += task.memory_bytes
            self._passes -= bool(task.passes_over)
            self._changed.notify_all()
        if self._read_ahead:
            self._read_ahead.done(task)
        self._prefetcher.passed(task.passes_over)

    def fetches(self, source: TensorSource) -> bool:
        """Whether the whole source is read into the page cache, for a task that was or will be handed out."""
        return self._prefetcher.wants(source)

    def complete(self) -> None:
        """Wait, after the last task, for the sources that are read for an observer. Raises what went wrong with
        that."""
        self._prefetcher.complete()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """Stop the prefetching thread, when no thread takes tasks any more."""
        self.close()
        self._prefetcher.close()
