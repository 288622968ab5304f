"""What brings the machine into the same state before each run of the benchmark."""

import mmap
import resource

import pytest

from hack.bench import quiet
from hack.bench.quiet import TouchedMemory

PAGES = 2000


def first_touches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def test_memory_is_touched_and_given_back() -> None:
    before = first_touches()
    TouchedMemory(PAGES * mmap.PAGESIZE).fill(0.0)
    assert first_touches() - before >= PAGES


@pytest.mark.parametrize("free_pages", [0, 10])
def test_no_more_is_touched_than_is_free(free_pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    free = quiet.LEFT_FREE_BYTES + free_pages * mmap.PAGESIZE
    monkeypatch.setattr(quiet, "free_memory_bytes", lambda: free)
    before = first_touches()
    TouchedMemory(PAGES * mmap.PAGESIZE).fill(0.0)
    assert first_touches() - before < PAGES
