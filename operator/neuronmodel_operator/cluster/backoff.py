"""How long to wait: for calls that may take long, and between retries."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def doubling(first: float, failures: int, longest: float) -> float:
    """Returns the pause in seconds after this many consecutive failures (at least one)."""
    return min(longest, first * 2.0 ** min(failures - 1, 10))


async def await_with_notice(call: Awaitable[T], seconds: float, on_delay: Callable[[], Awaitable[None]]) -> T:
    """Returns the result of `call`, however long it takes, and calls `on_delay` once after `seconds`. Cancelling the
    caller cancels the call."""
    task = asyncio.ensure_future(call)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            await on_delay()
        return await task
    finally:
        task.cancel()
