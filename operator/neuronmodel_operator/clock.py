"""The clock, injected so that tests can replace it.

Wall-clock times are compared with those in objects, which the API server writes (creations, deletions) or kubelets do
(starts of containers). So the API server's clock is the one that counts, and a clock of this machine that differs is
corrected by the difference.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from math import isfinite
from time import monotonic
from typing import Final, Protocol

TOLERATED_SECONDS: Final = 3.0
"""The API server says its time to the second, and an answer takes a moment: a difference up to this is none."""

_log = logging.getLogger(__name__)


class Clock(Protocol):
    def now(self) -> datetime: ...

    def monotonic(self) -> float:
        """Returns monotonic seconds."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Returns when the event is set or after `seconds`."""
        ...


class RealClock:
    def __init__(self) -> None:
        self._correction = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._correction

    def correct(self, server_time: datetime) -> None:
        """Called with the time of the API server at this moment, to the second."""
        difference = server_time - datetime.now(UTC)
        if abs((difference - self._correction).total_seconds()) <= TOLERATED_SECONDS:
            return
        is_right = abs(difference.total_seconds()) <= TOLERATED_SECONDS
        self._correction = timedelta(0) if is_right else difference
        if is_right:
            _log.info("the clock of this machine agrees with the API server's again")
        else:
            seconds = round(abs(difference.total_seconds()))
            direction = "behind" if difference > timedelta(0) else "ahead of"
            _log.warning(
                "the clock of this machine is %d s %s the API server's: times are corrected by it. Is NTP working?",
                seconds,
                direction,
            )

    def monotonic(self) -> float:
        return monotonic()

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds if isfinite(seconds) else None):
                await event.wait()
        except TimeoutError:
            return
