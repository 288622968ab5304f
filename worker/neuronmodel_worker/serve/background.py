"""Work that nothing waits for, done in a thread of its own while the model answers, and throttled in favour of
answers."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from neuronmodel_worker.io.priority import use_idle_priority

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 4.0
"""The longest pause, as a multiple of the time worked since the last one: while answers are computed all the time,
background work takes five times as long as on an idle worker, and never longer."""
POLL_SECONDS: Final = 0.01


class ShuttingDown(Exception):
    """The worker is shutting down. What has been written so far stays where the next start finds it."""


class Throttle:
    """Pauses background work while answers are computed; the work calls `wait` before each small step."""

    def __init__(self, busy: Callable[[], bool], stop: threading.Event) -> None:
        """`busy` returns whether an answer is being computed."""
        self._busy = busy
        self._stop = stop
        self._since = time.monotonic()

    def wait(self) -> None:
        """Waits while answers are computed, at most LONGEST_PAUSE times as long as the last step took. Raises
        ShuttingDown."""
        now = time.monotonic()
        latest = now + LONGEST_PAUSE * (now - self._since)
        while self._busy() and time.monotonic() < latest:
            if self._stop.wait(POLL_SECONDS):
                break
        if self._stop.is_set():
            raise ShuttingDown
        self._since = time.monotonic()


BackgroundWork = Callable[[Throttle], None]


class Background:
    """Runs the submitted work one item after another once `begin` has been called. Work reports its expected failures
    itself; an unexpected exception is logged."""

    JOIN_SECONDS: Final = 10.0

    def __init__(self) -> None:
        self._work: list[tuple[BackgroundWork, Callable[[], None]]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, work: BackgroundWork, on_discard: Callable[[], None] = lambda: None) -> None:
        """Queues `work`. `on_discard` is called in its place if the worker ends before the work has started."""
        self._work.append((work, on_discard))

    def begin(self, busy: Callable[[], bool]) -> None:
        """Starts the thread. `busy` returns whether an answer is being computed."""
        if self._work:
            throttle = Throttle(busy, self._stop)
            self._thread = threading.Thread(target=self._run, args=(throttle,), name="background", daemon=True)
            self._thread.start()

    def _run(self, throttle: Throttle) -> None:
        use_idle_priority()
        while self._work and not self._stop.is_set():
            work, _ = self._work.pop(0)
            try:
                work(throttle)
            except ShuttingDown:
                return
            except Exception:
                log.exception("work in the background failed")

    def request_stop(self) -> None:
        self._stop.set()

    def stop(self) -> None:
        """Waits until the thread has ended, but no longer than JOIN_SECONDS, since a sync may take a disk much
        longer."""
        self.request_stop()
        if self._thread:
            self._thread.join(self.JOIN_SECONDS)
        while self._work:
            self._work.pop()[1]()
