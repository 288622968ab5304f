"""How long tests wait for what happens at the speed of the machine.

A wait ends as soon as what it waits for is there, so that its limit costs nothing but where a test fails; it is one for
all tests, and longer than anything takes on a slow machine that has other work. Where a time itself is what is tested,
a test gives the product a time of its own or moves a clock.
"""

import time
from collections.abc import Callable

PATIENCE_SECONDS = 600.0
TEST_SECONDS = 3 * PATIENCE_SECONDS
"""A whole test is given up later than a wait in it, which tells what was missing."""


def until(holds: Callable[[], object], what: str = "", *, poll: float = 0.01) -> None:
    """Return once `holds()`; TimeoutError when it does not for PATIENCE_SECONDS."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE_SECONDS:.0f} s in vain{f' for {what}' if what else ''}")
        time.sleep(poll)
