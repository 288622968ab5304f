"""A clock that tests move."""

import asyncio
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class HandClock:
    """Stands still until `advance`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._alarms: dict[asyncio.Event, float] = {}

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        alarm = asyncio.Event()
        self._alarms[alarm] = self.seconds + max(seconds, 1e-6)
        waiters = [asyncio.create_task(one.wait()) for one in (event, alarm)]
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._alarms.pop(alarm, None)
            for waiter in waiters:
                waiter.cancel()

    async def advance(self, seconds: float) -> None:
        """From alarm to alarm, letting everything that waits run as far as it gets."""
        until = self.seconds + seconds
        await breathe()
        while due := [(at, alarm) for alarm, at in self._alarms.items() if at <= until]:
            at, alarm = min(due, key=lambda pair: pair[0])
            self.seconds = max(self.seconds, at)
            del self._alarms[alarm]
            alarm.set()
            await breathe()
        self.seconds = until


async def breathe() -> None:
    for _ in range(20):
        await asyncio.sleep(0)
