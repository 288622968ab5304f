"""Reads the chunks of the next tasks from a network, by threads of its own.

A connection brings tens of megabytes a second, so a network is fast only with many reads under way, far more than there
are threads that compute. Those would hold the memory of a task each while they wait; these threads hold a chunk.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.stream.schedule import Chunk, Task

Key = tuple[int, tuple[str, int, int]]
"""Of a chunk of a task: other tasks may read the same one."""


class ReadAhead:
    """At most `most` chunks at a time are read, or were read and not yet taken; half as many where tasks are made in
    passes, as the other half of the source's reads bring the columns of those.

    The tasks that threads are at come first, one chunk of each in turn, then those that wait, in their order.
    """

    def __init__(self, read: Callable[[Chunk], Array], is_read_ahead: Callable[[Chunk], bool], most: int) -> None:
        """`read` raises what reading raises; whoever takes the chunk gets that. A chunk that is not `is_read_ahead` is
        left alone."""
        self._read = read
        self._is_read_ahead = is_read_ahead
        self._most = self._limit = most
        self._begun: dict[int, deque[Chunk]] = {}
        """By the task's identity, the chunks that are still to be read, of tasks that threads are at."""
        self._waiting: dict[int, tuple[Task, deque[Chunk]]] = {}
        self._reads: dict[Key, Future[Array]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="ahead")
        self._closed = False

    def expect(self, tasks: Iterable[Task]) -> None:
        """Say which tasks come next, in their order, in place of those that were said before."""
        with self._lock:
            before = self._waiting
            self._waiting = {id(task): before.get(id(task)) or (task, self._chunks(task)) for task in tasks}
            if any(task.passes_over for task, _ in self._waiting.values()):
                self._limit = max(1, self._most // 2)
            self._fill()

    def begin(self, task: Task) -> None:
        """Say that a thread is at a task."""
        with self._lock:
            waited = self._waiting.pop(id(task)) if id(task) in self._waiting else (task, self._chunks(task))
            self._begun[id(task)] = waited[1]
            self._fill()

    def take(self, task: Task, chunk: Chunk) -> Array | None:
        """The bytes of a chunk of a task that was begun; None for one that is not read ahead. Raises what reading it
        raises."""
        if not self._is_read_ahead(chunk):
            return None
        key = id(task), chunk.key
        with self._lock:
            read = self._reads.get(key)
            if read is None:
                self._begun[id(task)].remove(chunk)
        if read is None:
            return self._read(chunk)
        try:
            return read.result()
        finally:
            with self._lock:
                del self._reads[key]
                self._fill()

    def done(self, task: Task) -> None:
        with self._lock:
            self._begun.pop(id(task), None)

    def close(self) -> None:
        """Waits for the reads that are under way."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(cancel_futures=True)

    def _chunks(self, task: Task) -> deque[Chunk]:
        """What the task reads, each chunk once, in the order in which it is used."""
        chunks = {visit.chunk.key: visit.chunk for move in task.moves for visit in move.visits}
        return deque(chunk for chunk in chunks.values() if self._is_read_ahead(chunk))

    def _fill(self) -> None:
        while len(self._reads) < self._limit and not self._closed and (found := self._next()):
            task, chunk = found
            self._reads[task, chunk.key] = self._pool.submit(self._read, chunk)

    def _next(self) -> tuple[int, Chunk] | None:
        for task, chunks in self._begun.items():
            if chunks:
                self._begun[task] = self._begun.pop(task)  # the last in turn from now on
                return task, chunks.popleft()
        for task, (_, chunks) in self._waiting.items():
            if chunks:
                return task, chunks.popleft()
        return None
