"""Memory that begins on a disk block, as I/O past the page cache needs it."""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuronmodel_worker.io.disk import BLOCK

Array = NDArray[Any]

SLACK = 2 * BLOCK
"""The extra bytes that a buffer needs beyond those that are read into it."""


def fresh(nbytes: int) -> Array:
    """Zeroed memory from the system that begins on a disk block, and is returned with the last array over it."""
    return np.frombuffer(mmap.mmap(-1, max(1, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def placed(buffer: Array, position: int, nbytes: int) -> Array:
    """The `nbytes` of a buffer that are aligned to disk blocks as a file's bytes from `position` on are, so that they
    can be transferred past the page cache. The buffer has to be one block larger."""
    lead = position % BLOCK
    return buffer[lead : lead + nbytes]
