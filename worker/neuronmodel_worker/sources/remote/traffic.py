"""What a run asks a source on a network for, counted: requests, bytes, and how long it reads and waits."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from neuronmodel_api.report import SourceTraffic


class BusyTime:
    """The time in which at least one thread was at something, in seconds: what several do at once counts once."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._busy = 0
        """How many threads are at it."""
        self._since = 0.0
        self._seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self._lock:
            if not self._busy:
                self._since = self._monotonic()
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1
                if not self._busy:
                    self._seconds += self._monotonic() - self._since

    @property
    def is_busy(self) -> bool:
        return self._busy > 0

    @property
    def seconds(self) -> float:
        """All of it, up to now."""
        with self._lock:
            return self._seconds + (self._monotonic() - self._since if self._busy else 0.0)


class Traffic:
    """The counters of one run. Any thread may count and report at any time."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.reading = BusyTime(monotonic)
        self.limited = BusyTime(monotonic)
        """Waiting because the server limits the rate of requests."""
        self._lock = threading.Lock()
        self.requests = self.retries = self.bytes = 0
        self._is_failing = False

    def requested(self) -> None:
        with self._lock:
            self.requests += 1

    def retried(self) -> None:
        with self._lock:
            self.retries += 1
            self._is_failing = True

    def answered(self) -> None:
        self._is_failing = False

    def read(self, nbytes: int) -> None:
        with self._lock:
            self.bytes += nbytes

    def report(self) -> SourceTraffic | None:
        """Returns the counts so far; None if nothing was asked for."""
        if not self.requests:
            return None
        seconds = self.reading.seconds
        return SourceTraffic(
            bytes=self.bytes,
            bytes_per_second=round(self.bytes / seconds) if self.bytes and seconds > 0 else None,
            requests=self.requests,
            retries=self.retries,
            limited_milliseconds=round(self.limited.seconds * 1000),
            is_limited=self.limited.is_busy,
            is_failing=self._is_failing,
        )
