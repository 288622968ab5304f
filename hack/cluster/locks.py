"""One at a time on a machine, whichever clone it is from: commands that work on the same thing, and test runs."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from .layout import LAYOUT
from .progress import say

_held: set[str] = set()


@contextmanager
def one_at_a_time(work: str) -> Iterator[None]:
    """Others wait, but for this process, which may ask for what it holds already. With no `work`, nobody does."""
    if not work or work in _held:
        yield
        return
    LAYOUT.state.mkdir(parents=True, exist_ok=True)
    lock = os.open(LAYOUT.state / f"{work}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process works on the {work}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        _held.add(work)
        yield
    finally:
        _held.discard(work)
        os.close(lock)
