"""Work that nobody waits for, done while the model answers: in a thread of its own, giving way to answers."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from neuronmodel_worker.io.priority import use_idle_priority

log = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 4.0
"""In times of the work done since the last pause: with answers under way all the time, work in the background takes
five times as long as without any, and no longer."""
POLL_SECONDS: Final = 0.01


class ShuttingDown(Exception):
    """The worker was told to stop: what was made so far stays where the next start finds it."""


class Throttle:
    """What work in the background asks before each small piece of it."""

    def __init__(self, busy: Callable[[], bool], stop: threading.Event) -> None:
        """`busy`: whether an answer is being computed."""
        self._busy = busy
        self._stop = stop
        self._since = time.monotonic()

    def wait(self) -> None:
        """While answers are computed, at most LONGEST_PAUSE times as long as it was worked. Raises ShuttingDown."""
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
    """Runs work in turn once `begin` was called. Work tells of its own failures; what it does not foresee is logged."""

    JOIN_SECONDS: Final = 10.0

    def __init__(self) -> None:
        self._work: list[tuple[BackgroundWork, Callable[[], None]]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def submit(self, work: BackgroundWork, on_discard: Callable[[], None] = lambda: None) -> None:
        """`otherwise` is called instead where the worker ends before it comes to that."""
        self._work.append((work, on_discard))

    def begin(self, busy: Callable[[], bool]) -> None:
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
        """Returns when the thread has ended, or after a while: a disk may take its time for a sync."""
        self.request_stop()
        if self._thread:
            self._thread.join(self.JOIN_SECONDS)
        while self._work:
            self._work.pop()[1]()
