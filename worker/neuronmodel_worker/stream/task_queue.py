"""Which thread does what next: by size, by the memory that is free, by what the page cache holds."""

import threading
from collections.abc import Iterator
from typing import Final

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.stream.prefetch import Fetcher, PageCache
from neuronmodel_worker.stream.schedule import Task


class Queue:
    """Hands out tasks by their order, the largest of those in sight first, as long as the memory of all that are under
    way fits. One that would never fit is done alone. Passes wait until their source is in the page cache, while there
    is something else to do, and leave half of the threads to the others: they keep the processors busy, and those the
    disk."""

    AHEAD: Final = 16
    """How many units are in sight."""

    def __init__(self, units: Iterator[list[Task]], memory_bytes: int, threads: int, cache: PageCache) -> None:
        self._units = units
        self._free = self._memory = memory_bytes
        self._waiting: list[Task] = []
        self._in_sight = 0
        self._closed = False
        self._changed = threading.Condition()
        self._passes, self._most_passes = 0, max(1, threads // 2)
        self._fetcher = Fetcher(cache, self._fetched)

    def take(self) -> Task | None:
        """The next task, waited for while there is no memory for it; None when there is none, or `close` was called."""
        with self._changed:
            while not self._closed:
                self._look_ahead()
                if not self._waiting:
                    return None
                if task := self._choose():
                    self._waiting.remove(task)
                    self._free -= task.memory_bytes
                    self._passes += bool(task.passes_over)
                    return task
                self._changed.wait()
            return None

    def _choose(self) -> Task | None:
        late = None
        for task in self._waiting:
            if task.memory_bytes > self._free and self._free < self._memory:
                continue
            if not task.passes_over or (self._passes < self._most_passes and self._fetcher.has(task.passes_over)):
                return task
            late = late or task
        return late if all(task.passes_over for task in self._waiting) else None

    def _look_ahead(self) -> None:
        if len(self._waiting) > self._in_sight // 2:
            return
        for _, unit in zip(range(self.AHEAD), self._units, strict=False):
            self._waiting += unit
            for task in unit:
                self._fetcher.want(task.passes_over)
        self._waiting.sort(key=lambda task: (task.order, not task.passes_over, -task.nbytes))
        self._in_sight = len(self._waiting)

    def _fetched(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def done(self, task: Task) -> None:
        with self._changed:
            self._free += task.memory_bytes
            self._passes -= bool(task.passes_over)
            self._changed.notify_all()
        self._fetcher.passed(task.passes_over)

    def fetches(self, source: TensorSource) -> bool:
        """Whether it is read into the page cache, whole, for a task that was or will be handed out."""
        return self._fetcher.wants(source)

    def complete(self) -> None:
        """Every task is done: wait for what is fetched for its own sake. Raises what went wrong with that."""
        self._fetcher.complete()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody takes any more."""
        self.close()
        self._fetcher.close()
