"""URLs that are good for some time: for how long, and when a new one is asked for.

They are secrets, as everybody can read the file by them, so they stay in memory.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import parse_qs, urlsplit

from neuronmodel_worker.io.untrusted_input import natural_number
from neuronmodel_worker.sources.remote.byte_ranges import Location

UNKNOWN_LIFETIME_SECONDS: Final = 900.0
RENEWED_AT: Final = 0.8
"""The share of its life after which a URL is not used any more."""
YOUNG_SECONDS: Final = 60.0
"""A URL that is refused when it is younger was not refused for its age."""


def lifetime_seconds(url: str, date: str | None) -> float | None:
    """Returns how long a URL is good for, and None where it does not say. `date` is the header of the answer that it
    came with, by whose clock it expires."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    now, ends = _epoch(date), list[float]()
    for maker in ("Amz", "Goog"):
        if (lifetime := natural_number(query.get(f"X-{maker}-Expires"))) is not None:
            ends.append(_signed_at(query.get(f"X-{maker}-Date"), now) + lifetime)
    if (expires := natural_number(query.get("Expires"))) is not None:
        ends.append(float(expires))
    return max(1.0, min(ends) - now) if ends else None


def _signed_at(date: str | None, now: float) -> float:
    """When a URL was signed, which may be long before it was answered."""
    try:
        return datetime.strptime(date or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return now


def _epoch(date: str | None) -> float:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return datetime.now(UTC).timestamp()


@dataclass(frozen=True)
class _Known:
    location: Location
    since: float
    lifetime_seconds: float


class SignedUrls:
    """The locations of files by their names; each is asked for by one thread at a time."""

    def __init__(
        self,
        resolve: Callable[[str], tuple[Location, float | None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`resolve` returns a file's location and its lifetime in seconds; what it raises, `location` raises."""
        self._resolve = resolve
        self._monotonic = monotonic
        self._known: dict[str, _Known] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def location(self, name: str) -> Location:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            known = self._known.get(name)
            if known is None or self._age(known) > RENEWED_AT * known.lifetime_seconds:
                since = self._monotonic()
                location, lifetime = self._resolve(name)
                known = self._known[name] = _Known(location, since, lifetime or UNKNOWN_LIFETIME_SECONDS)
            return known.location

    def is_outdated(self, name: str, refused: Location, rotated: bool = False) -> bool:
        """Says that a location was refused, and returns whether another one is worth a try: there is one already, or
        this one is old enough to have expired, or its token was `rotated`."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            known = self._known.get(name)
            if known is None or known.location != refused:
                return True
            if not rotated and self._age(known) < min(YOUNG_SECONDS, known.lifetime_seconds / 2):
                return False
            del self._known[name]
            return True

    def _age(self, known: _Known) -> float:
        return self._monotonic() - known.since
