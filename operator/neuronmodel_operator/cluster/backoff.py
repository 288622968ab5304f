"""How long is waited: for what may take long, and between two tries of what failed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def doubling(first: float, failures: int, longest: float) -> float:
    """The pause after so many failures in a row, at least one."""
    return min(longest, first * 2.0 ** min(failures - 1, 10))


async def await_with_notice(call: Awaitable[T], seconds: float, on_delay: Callable[[], Awaitable[None]]) -> T:
    """What it gives, however long that takes; `on_delay` is called once when it has taken so many seconds. It is given
    up with whoever waits for it."""
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            await on_delay()
        return await task
    finally:
        task.cancel()
