"""Counts the bytes and the busy seconds of a run."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transferred:
    """The totals so far."""

    bytes_read: int
    bytes_written: int


StreamProgress = Callable[[Transferred], None]


class BusyClock:
    """Measures the seconds in which at least one thread was busy."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._active = 0
        self._since = 0.0

    def start(self) -> None:
        if not self._active:
            self._since = time.monotonic()
        self._active += 1

    def stop(self) -> None:
        self._active -= 1
        if not self._active:
            self.seconds += time.monotonic() - self._since


class Meter:
    """The counters that the threads of a run share. `progress` is called after every transfer, by one thread at a time;
    it has to be quick."""

    def __init__(self, progress: StreamProgress | None = None) -> None:
        self.bytes_read = 0
        self.bytes_written = 0
        self.read_clock = BusyClock()
        self.write_clock = BusyClock()
        self._progress = progress
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, nbytes: int) -> Iterator[None]:
        with self._timed(self.read_clock):
            yield
        self._count(nbytes, 0)

    @contextmanager
    def writing(self, nbytes: int) -> Iterator[None]:
        with self._timed(self.write_clock):
            yield
        self._count(0, nbytes)

    @contextmanager
    def _timed(self, clock: BusyClock) -> Iterator[None]:
        with self._lock:
            clock.start()
        try:
            yield
        finally:
            with self._lock:
                clock.stop()

    def _count(self, read: int, written: int) -> None:
        with self._lock:
            self.bytes_read += read
            self.bytes_written += written
            if self._progress:
                self._progress(Transferred(self.bytes_read, self.bytes_written))
