"""How many requests of a kind a user or, without a token, everybody has in a window of time."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .refusals import Refused

API, RESOLVERS, PAGES = "api", "resolvers", "pages"


@dataclass(frozen=True)
class Limit:
    quota: int
    window_seconds: float = 300.0


@dataclass
class _Window:
    began: float
    used: int = 0


@dataclass
class Rates:
    """The defaults are what a token of a free account has."""

    limits: dict[str, Limit] = field(
        default_factory=lambda: {API: Limit(1000), RESOLVERS: Limit(5000), PAGES: Limit(200)}
    )
    with_retry_after: bool = False
    """Adds `Retry-After` to a 429, which else says in `RateLimit` how long to wait."""
    clock: Callable[[], float] = time.time
    _windows: dict[tuple[str, str | None], _Window] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, kind: str, user: str | None, cost: int = 1) -> dict[str, str]:
        """Headers for an answer; Refused with 429 where nothing is left. What costs nothing is never refused."""
        limit, now = self.limits[kind], self.clock()
        with self._lock:
            window = self._window(kind, user, now)
            window.used += cost
            left = limit.quota - window.used
            reset = max(1, math.ceil(window.began + limit.window_seconds - now))
        if left < 0 < cost:
            raise self._refused(kind, limit, reset)
        return _headers(kind, limit, max(0, left), reset)

    def forget(self) -> None:
        """Everybody has all of every limit again."""
        with self._lock:
            self._windows.clear()

    def _window(self, kind: str, user: str | None, now: float) -> _Window:
        window = self._windows.get((kind, user))
        if window is None or now >= window.began + self.limits[kind].window_seconds:
            window = self._windows[kind, user] = _Window(now)
        return window

    def _refused(self, kind: str, limit: Limit, reset: int) -> Refused:
        headers = _headers(kind, limit, 0, reset)
        if self.with_retry_after:
            headers["Retry-After"] = str(reset)
        return Refused(429, f"We had to rate limit you: {kind}. Retry after {reset} seconds.", None, headers)


def _headers(kind: str, limit: Limit, left: int, reset: int) -> dict[str, str]:
    return {
        "RateLimit": f'"{kind}";r={left};t={reset}',
        "RateLimit-Policy": f'"fixed window";"{kind}";q={limit.quota};w={math.ceil(limit.window_seconds)}',
    }
