"""Waits for what the cluster does, with a deadline and a word on what stood there instead."""

import time
from collections.abc import Callable
from typing import TypeVar

from tests.waiting import PATIENCE_SECONDS

T = TypeVar("T")
POLL_SECONDS = 0.2


def eventually(
    probe: Callable[[], T | None],
    *,
    what: str,
    instead: Callable[[], str] = lambda: "",
    poll: float = POLL_SECONDS,
) -> T:
    """The first truthy value of `probe`; AssertionError with `instead()` when there is none within PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        if value := probe():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {PATIENCE_SECONDS:.0f} s in vain for {what}\n{instead()}")
        time.sleep(poll)
