"""Brings into the page cache, ahead of time, what will be read in passes over its columns."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from neuronmodel_worker.checkpoint import TensorSource


class PageCache(Protocol):
    def fetch(self, source: TensorSource, start: int, nbytes: int) -> None:
        """Have these bytes of a tensor read, and wait for the last of them."""

    def forget(self, source: TensorSource) -> None: ...


class Fetcher:
    """A thread that reads one source after the other, two ahead of those that are done with. A pass over what it has
    read takes its columns from memory; one that comes earlier waits for the disk, and holds its frames meanwhile."""

    PIECE_BYTES: Final = 32 << 20
    AHEAD: Final = 2

    def __init__(self, cache: PageCache, fetched: Callable[[], None]) -> None:
        """`fetched` is called after each source that is there."""
        self._cache = cache
        self._fetched = fetched
        self._wanted: deque[TensorSource] = deque()
        self._passes: Counter[str] = Counter()
        self._there: set[str] = set()
        self._unfinished = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def want(self, sources: Iterable[TensorSource]) -> None:
        """There will be a pass over these; again for every pass."""
        with self._changed:
            for source in sources:
                if not self._passes[source.name]:
                    self._wanted.append(source)
                self._passes[source.name] += 1
            self._changed.notify_all()

    def has(self, sources: Iterable[TensorSource]) -> bool:
        return all(source.name in self._there for source in sources)

    def passed(self, sources: Iterable[TensorSource]) -> None:
        """A pass is over; after the last one the page cache need not keep a source."""
        for source in sources:
            with self._changed:
                self._passes[source.name] -= 1
                last = not self._passes[source.name]
                if last and source.name in self._there:
                    self._unfinished -= 1
                    self._changed.notify_all()
            if last:
                self._cache.forget(source)

    def _run(self) -> None:
        while source := self._next():
            for start in range(0, source.nbytes, self.PIECE_BYTES):
                if self._closed:
                    return
                self._cache.fetch(source, start, min(self.PIECE_BYTES, source.nbytes - start))
            with self._changed:
                self._there.add(source.name)
                too_late = not self._passes[source.name]
                self._unfinished -= too_late
            if too_late:
                self._cache.forget(source)
            self._fetched()

    def _next(self) -> TensorSource | None:
        with self._changed:
            while not self._closed:
                while self._wanted and not self._passes[self._wanted[0].name]:
                    self._wanted.popleft()  # all passes over it are done already
                if self._wanted and self._unfinished < self.AHEAD:
                    self._unfinished += 1
                    return self._wanted.popleft()
                self._changed.wait()
            return None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
