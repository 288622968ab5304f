"""Which task comes next: by size, by the free memory, by what is in the page cache."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.stream.prefetch import PageCache, Prefetcher
from neuronmodel_worker.stream.read_ahead import ReadAhead
from neuronmodel_worker.stream.schedule import Task, TaskKind


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
        self._waiting: dict[TaskKind, deque[Task]] = {}
        """In their order. A look at the first of a kind says enough of all of them."""
        self._count = self._looked_ahead = self._least_bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._idle = 0
        """Threads that wait."""
        self._passes, self._most_passes = 0, max(1, threads // 2)
        self._prefetcher = Prefetcher(cache, self._fetched)
        self._read_ahead = read_ahead

    def take(self, after: Task | None = None) -> Task | None:
        """The next task, as soon as there is memory for it; None when there is none, or after `close`. `after`: the
        task that the thread is done with.

        Whoever takes a task or is done with one wakes one thread that waits, if there is another task that may begin:
        a hundred that all looked would keep each other from the lock.
        """
        self._tell_done(after)
        with self._changed:
            self._give_back(after)
            while not self._closed:
                self._look_ahead()
                task = self._choose()
                if task or not self._waiting:
                    return self._begin(task)
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
            return None

    def _begin(self, task: Task | None) -> Task | None:
        if task is None:
            self._changed.notify_all()  # there is nothing left for the others either
            return None
        alike = self._waiting[task.layout.kind]
        alike.remove(task)
        self._count -= 1
        if not alike:
            del self._waiting[task.layout.kind]
        self._free -= task.memory_bytes
        self._passes += task.is_pass
        if self._read_ahead:
            self._read_ahead.begin(task)
        self._wake_one()
        return task

    def _wake_one(self) -> None:
        if self._idle and self._choose():
            self._changed.notify()

    def _choose(self) -> Task | None:
        is_idle, all_in_passes, delayed = self._free == self._memory, True, None
        if self._free < self._least_bytes and not is_idle:
            return None
        for kind, alike in self._waiting.items():
            all_in_passes = all_in_passes and bool(kind.passes_over)
            if kind.memory_bytes > self._free and not is_idle:
                continue
            if not kind.passes_over:
                return alike[0]
            if self._passes < self._most_passes and (fetched := self._with_fetched_sources(alike)):
                return fetched
            delayed = delayed or alike[0]
        return delayed if all_in_passes else None

    def _with_fetched_sources(self, alike: Iterable[Task]) -> Task | None:
        """Those of one unit, which come one after the other, have their sources in common."""
        unfetched = None
        for task in alike:
            if task.unit is not unfetched:
                if self._prefetcher.has(task.passes_over):
                    return task
                unfetched = task.unit
        return None

    def _look_ahead(self) -> None:
        if self._count > self._looked_ahead // 2:
            return
        for _, unit in zip(range(self.FAR_AHEAD if self._read_ahead else self.AHEAD), self._units, strict=False):
            self._count += len(unit)
            for task in unit:
                self._waiting.setdefault(task.layout.kind, deque()).append(task)
            self._prefetcher.want([source for task in unit if task.is_pass for source in task.passes_over])
        self._waiting = dict(sorted(self._waiting.items(), key=lambda each: _place(each[0])))
        self._looked_ahead = self._count
        self._least_bytes = min((kind.memory_bytes for kind in self._waiting), default=0)
        if self._read_ahead:
            self._read_ahead.expect(task for alike in self._waiting.values() for task in alike)

    def _fetched(self) -> None:
        with self._changed:
            self._wake_one()

    def done(self, task: Task) -> None:
        """A thread is done with a task, and takes none."""
        self._tell_done(task)
        with self._changed:
            self._give_back(task)
            self._wake_one()

    def _give_back(self, task: Task | None) -> None:
        if task:
            self._free += task.memory_bytes
            self._passes -= task.is_pass

    def _tell_done(self, task: Task | None) -> None:
        if task and self._read_ahead:
            self._read_ahead.done(task)
        if task and task.is_pass:
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


def _place(kind: TaskKind) -> tuple[int, bool, int]:
    """Where tasks come: those in passes first, whose sources are read meanwhile, and the largest first."""
    return kind.order, not kind.passes_over, -kind.nbytes
