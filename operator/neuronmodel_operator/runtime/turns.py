"""Whose pass is next: a limited number of passes run at the same time, and what somebody waits for comes first.

After a restart every NeuronModel has to be looked at, which takes minutes with thousands of them. A change that a user
makes meanwhile does not wait for that; nor does it hold that up for good, as every few turns one goes to the rest.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

PROMPT_IN_A_ROW: Final = 4
"""After that many turns for what is prompt, one goes to what is not, if that waits."""

_Queue = deque[asyncio.Future[None]]


class Turns:
    """A semaphore with two queues, each of them first come, first served."""

    def __init__(self, num_at_once: int, monotonic: Callable[[], float]) -> None:
        self._free = num_at_once
        self._monotonic = monotonic
        self._prompt: _Queue = deque()
        self._patient: _Queue = deque()
        self._in_a_row = 0
        self._given_at = monotonic()
        """When a turn was last given."""

    @asynccontextmanager
    async def turn(self, *, prompt: bool) -> AsyncIterator[None]:
        """Waits for a turn, and holds it inside the context."""
        await self._take(prompt)
        try:
            yield
        finally:
            self._give_back()

    @property
    def num_waiting(self) -> int:
        return sum(not each.done() for each in (*self._prompt, *self._patient))

    @property
    def stalled_seconds(self) -> float:
        """For how long somebody has waited without anybody getting a turn."""
        return self._monotonic() - self._given_at if self._prompt or self._patient else 0.0

    async def _take(self, prompt: bool) -> None:
        if self._free and not self._prompt and not self._patient:
            self._free -= 1
            self._given_at = self._monotonic()
            return
        if not self._prompt and not self._patient:
            self._given_at = self._monotonic()  # the wait begins now
        mine = asyncio.get_running_loop().create_future()
        queue = self._prompt if prompt else self._patient
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
        if self._prompt and (not self._patient or self._in_a_row < PROMPT_IN_A_ROW):
            self._in_a_row += 1
            return self._prompt
        self._in_a_row = 0
        return self._patient or None
