"""Whose pass is next: a limited number of passes run at the same time, and what somebody waits for comes first.

After a restart every NeuronModel has to be looked at, which takes minutes with thousands of them. A change that a user
makes meanwhile does not wait for that; nor does it hold that up for good, as every few turns one goes to the rest.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Final

IN_A_ROW: Final = 4
"""After that many turns in a row, one goes to what is less urgent, if that waits."""

_Queue = deque[asyncio.Future[None]]


class Urgency(IntEnum):
    NEW = 0
    """Somebody has just made it, and has seen nothing of it yet."""
    BEGUN = 1
    """It has its first status, and nothing else."""
    CHANGED = 2
    """An event asked for the pass."""
    PATIENT = 3
    """A restart, or a list that says what there is."""


class Turns:
    """A semaphore with a queue for each urgency, each of them first come, first served."""

    def __init__(self, num_at_once: int, monotonic: Callable[[], float]) -> None:
        self._free = num_at_once
        self._monotonic = monotonic
        self._queues: tuple[_Queue, ...] = tuple(deque() for _ in Urgency)
        self._in_a_row = [0] * len(Urgency)
        self._given_at = monotonic()
        """When a turn was last given."""

    @asynccontextmanager
    async def turn(self, urgency: Urgency) -> AsyncIterator[None]:
        """Waits for a turn, and holds it inside the context."""
        await self._take(self._queues[urgency])
        try:
            yield
        finally:
            self._give_back()

    @property
    def num_waiting(self) -> int:
        return sum(not each.done() for queue in self._queues for each in queue)

    @property
    def stalled_seconds(self) -> float:
        """For how long somebody has waited without anybody getting a turn."""
        return self._monotonic() - self._given_at if any(self._queues) else 0.0

    async def _take(self, queue: _Queue) -> None:
        if not any(self._queues):
            self._given_at = self._monotonic()  # a wait begins now, if it does
            if self._free:
                self._free -= 1
                return
        mine = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._give_back()  # it was given just before
            elif mine in queue:
                queue.remove(mine)
            raise

    def _give_back(self) -> None:
        self._free += 1
        while self._free and (queue := self._next_queue()):
            mine = queue.popleft()
            if not mine.done():
                self._free -= 1
                self._given_at = self._monotonic()
                mine.set_result(None)

    def _next_queue(self) -> _Queue | None:
        """The queue whose first is next; None if nobody waits."""
        for urgency, queue in enumerate(self._queues):
            if queue and (self._in_a_row[urgency] < IN_A_ROW or not any(self._queues[urgency + 1 :])):
                self._in_a_row[urgency] += 1
                return queue
            self._in_a_row[urgency] = 0
        return None
