"""Waits for conditions, with a deadline."""

import time
from collections.abc import Callable

from .failures import ClusterError


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str, poll: float = 0.1) -> None:
    """Return once `condition` holds; raise ClusterError naming `what` when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(poll)
