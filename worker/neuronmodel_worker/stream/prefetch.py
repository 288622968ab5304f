"""Reads sources into the page cache ahead of passes over their columns."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from neuronmodel_worker.checkpoint import TensorSource

OBSERVED_BYTES: Final = 16 << 20
PIECE_BYTES: Final = 32 << 20


def observed_at_once(source: TensorSource) -> int:
    """How many bytes of a tensor are copied from the page cache at a time for an observer."""
    return min(OBSERVED_BYTES, source.nbytes)


def prefetched_at_once(parallel_reads: int) -> int:
    """How many bytes of a tensor are asked for together: of a network so many that half of its reads are of them."""
    return max(PIECE_BYTES, parallel_reads // 2 * OBSERVED_BYTES)


class PageCache(Protocol):
    piece_bytes: int
    """How many bytes are fetched by one call."""
    is_observed: bool
    """An observer sees all fetched bytes: they have to be fetched, even if no pass waits for them any more."""

    def fetch(self, source: TensorSource, start: int, nbytes: int) -> None:
        """Read these bytes of a tensor into the page cache, and wait for the last of them. What it raises ends the
        thread."""

    def forget(self, source: TensorSource) -> None: ...


class Prefetcher:
    """A thread that reads one source after the other, two ahead of those that are finished. A pass over a source that
    was read takes its columns from memory; one that comes earlier waits for the disk, and keeps its frames
    meanwhile."""

    AHEAD: Final = 2

    def __init__(self, cache: PageCache, fetched: Callable[[], None]) -> None:
        """`fetched` is called after each source that was read."""
        self._cache = cache
        self._fetched = fetched
        self._wanted: deque[TensorSource] = deque()
        self._passes: Counter[str] = Counter()
        self._fetched_sources: set[str] = set()
        self._fetching: str | None = None
        self._unfinished = 0
        self._closed = self._idle = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fetch", daemon=True)
        self._thread.start()

    def want(self, sources: Sequence[TensorSource]) -> None:
        """Announce a pass over each of these sources; one that several passes are over is named as often."""
        if not sources:
            return
        with self._changed:
            for source in sources:
                if not self._passes[source.name]:
                    self._wanted.append(source)
                self._passes[source.name] += 1
            self._changed.notify_all()

    def wants(self, source: TensorSource) -> bool:
        """Whether a pass over the source was announced."""
        return source.name in self._passes

    def has(self, sources: Iterable[TensorSource]) -> bool:
        return all(source.name in self._fetched_sources for source in sources)

    def passed(self, sources: Iterable[TensorSource]) -> None:
        """A pass over these sources is finished; after the last one the page cache need not keep a source. One that the
        thread is at, or that an observer has still to see, is forgotten when it was fetched."""
        for source in sources:
            with self._changed:
                self._passes[source.name] -= 1
                last, fetched = not self._passes[source.name], source.name in self._fetched_sources
                if last and fetched:
                    self._unfinished -= 1
                    self._changed.notify_all()
                waits = not fetched and (source.name == self._fetching or self._cache.is_observed)
            if last and not waits:
                self._cache.forget(source)

    def _run(self) -> None:
        try:
            while source := self._next():
                self._fetch(source)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
            self._fetched()

    def _fetch(self, source: TensorSource) -> None:
        piece = self._cache.piece_bytes
        for start in range(0, source.nbytes, piece):
            if self._closed:
                return
            self._cache.fetch(source, start, min(piece, source.nbytes - start))
        with self._changed:
            self._fetched_sources.add(source.name)
            self._fetching = None
            too_late = not self._passes[source.name]
            self._unfinished -= too_late
        if too_late:
            self._cache.forget(source)
        self._fetched()

    def _next(self) -> TensorSource | None:
        with self._changed:
            while not self._closed:
                while self._wanted and not self._passes[self._wanted[0].name] and not self._cache.is_observed:
                    self._wanted.popleft()  # all passes over it are finished already
                if self._wanted and self._unfinished < self.AHEAD:
                    self._unfinished += 1
                    self._fetching = self._wanted[0].name
                    return self._wanted.popleft()
                self._idle = True
                self._changed.notify_all()
                self._changed.wait()
                self._idle = False
            return None

    def complete(self) -> None:
        """Wait for everything that is observed, when no pass is running and none will come. Raises what ended the
        thread."""
        with self._changed:
            while self._cache.is_observed and not self._error and not (self._idle and not self._wanted):
                self._changed.wait()
            if self._cache.is_observed and self._error:
                raise self._error

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
