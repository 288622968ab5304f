"""How many threads read what is only digested, and how much at a time: as many as there are processors, in memory that
does not grow with them up to 256."""

from dataclasses import dataclass
from typing import Final

from neuronmodel_worker.io.cgroups import usable_processors

FEWEST: Final = 4
"""Drives want several requests at a time, however few processors there are."""

READ_BYTES: Final = 16 << 20
"""What one of a few threads reads at a time. Larger pieces gain nothing."""
LEAST_READ_BYTES: Final = 1 << 20
"""What one of a hundred threads does: together they keep more than enough under way."""
READERS_BYTES: Final = 256 << 20
"""The memory of all threads that only read and digest, up to 256 of them."""


def reading_threads() -> int:
    """How many threads read: one for each usable processor."""
    return max(FEWEST, usable_processors())


def bytes_at_a_time(threads: int) -> int:
    """How much each of so many threads reads at a time, in whole mebibytes."""
    share = READERS_BYTES // max(1, threads)
    return min(READ_BYTES, max(LEAST_READ_BYTES, share - share % LEAST_READ_BYTES))


@dataclass(frozen=True, slots=True)
class Readers:
    """What one file is read with: so many threads, each of which reads so much at a time."""

    threads: int = 1
    nbytes: int = READ_BYTES


ALONE: Final = Readers()
"""One thread."""


def readers_of_each(threads: int, files: int) -> Readers:
    """What each of several files is read with, if all are read at a time and no thread is to be idle."""
    return Readers(-(-threads // max(1, files)), bytes_at_a_time(threads))
