"""How long a run waits for a source: retries with a growing, random pause, as long as bytes come at all.

One budget serves all threads of a run. What is hopeless ends soon: where nothing ever came, two attempts after the
first are enough. Where bytes came, ten minutes without one are waited for.
"""

import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from neuronmodel_worker.sources.remote.refusals import SourceRateLimited, SourceUnreachable
from neuronmodel_worker.sources.remote.traffic import Traffic

T = TypeVar("T")

FIRST_ATTEMPTS: Final = 3
SILENT_SECONDS: Final = 600.0
MOST_ATTEMPTS: Final = 80
"""Of one request, however much others bring meanwhile. With the longest pauses they take more than SILENT_SECONDS."""
PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 15.0
LONGEST_LIMIT_SECONDS: Final = 300.0
"""A rate limit's window is five minutes (huggingface.co/docs/hub/rate-limits)."""


class Retry(Exception):
    """An attempt failed and another one may succeed. `after_seconds` is how long the server asks to wait, and None if
    it does not. `at` is the host, where it is another one than the source's."""

    def __init__(self, why: str, after_seconds: float | None = None, at: str | None = None) -> None:
        super().__init__(why)
        self.after_seconds = after_seconds
        self.at = at


class RetryBudget:
    """Counts what was retried and waited for, and decides when to give up. `what` names the source in messages."""

    def __init__(
        self,
        what: str,
        *,
        silent_seconds: float = SILENT_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what = what
        self.traffic = Traffic(monotonic)
        self._silent_seconds = silent_seconds
        self._pause_seconds = pause_seconds
        self._monotonic = monotonic
        self._heard_at: dict[str, float] = {}
        """When something of a kind came last."""
        self._lock = threading.Lock()
        self._interrupted = threading.Event()

    def run(self, attempt: Callable[[], T], kind: str = "") -> T:
        """Calls `attempt` until it returns. Where nothing of its kind ever came, that is soon hopeless: what comes
        from one host says nothing of another. Raises SourceUnreachable or SourceRateLimited, and what it raises apart
        from Retry."""
        began, limited = self._monotonic(), 0.0
        for number in range(1, MOST_ATTEMPTS + 1):
            if self._interrupted.is_set():
                raise SourceUnreachable(self.what, "it was told to stop waiting")
            self.traffic.requested()
            try:
                result = attempt()
            except Retry as retry:
                last = retry
            else:
                self.traffic.answered()
                with self._lock:
                    self._heard_at[kind] = self._monotonic()
                return result
            if last.after_seconds is not None:
                pause = max(last.after_seconds, self._pause(number))
                limited += pause
                if limited > LONGEST_LIMIT_SECONDS:
                    raise SourceRateLimited(last.at or self.what, last.after_seconds) from last
                self._wait_for_limit(pause)
                continue
            if self._is_hopeless(number, began, kind):
                break
            self.traffic.retried()
            self._interrupted.wait(self._pause(number))
        raise SourceUnreachable(last.at or self.what, str(last)) from last

    def interrupt(self) -> None:
        """Ends every wait, from another thread."""
        self._interrupted.set()

    def _is_hopeless(self, attempts: int, began: float, kind: str) -> bool:
        with self._lock:
            heard = self._heard_at.get(kind)
        if heard is None:
            return attempts >= FIRST_ATTEMPTS
        return self._monotonic() - max(heard, began) > self._silent_seconds

    def _pause(self, attempts: int) -> float:
        """Half of it is random, so that ranks and pods that failed together do not come back together."""
        longest = min(LONGEST_PAUSE_SECONDS, self._pause_seconds * 2.0 ** min(attempts, 10))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311

    def _wait_for_limit(self, seconds: float) -> None:
        waited = seconds + self._pause_seconds * random.uniform(0.0, 4.0)  # noqa: S311
        with self.traffic.limited.counted():
            self._interrupted.wait(waited)
