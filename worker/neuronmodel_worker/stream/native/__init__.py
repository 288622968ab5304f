"""Transposed copies by a small library that is compiled with this package; `transpose.c` is its source.

Where it is not there, or does not do what it should, `transposed_copy` is None and numpy makes the copies.
NEURONMODEL_NATIVE=off leaves it out, to compare.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

LIBRARY: Final = Path(__file__).with_name("transpose.so")
SWITCH: Final = "NEURONMODEL_NATIVE"
ITEM_SIZES: Final = (2, 4)

TransposedCopy = Callable[[NDArray[Any], NDArray[Any]], None]
"""Fills stored[columns, rows] from source[rows, columns], which have one element size out of ITEM_SIZES, and whose rows
are contiguous."""


def load(path: Path) -> TransposedCopy | None:
    """Returns the copy that a library makes; None where there is none that does what it should."""
    if os.environ.get(SWITCH) == "off":
        return None
    try:
        library = ctypes.CDLL(str(path))
        functions = {size: getattr(library, f"neuronmodel_transpose_{size}") for size in ITEM_SIZES}
    except (OSError, AttributeError) as error:
        log.info("transposed copies are numpy's, which are slower: %s", error)
        return None
    size, pointer, pitch = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_ssize_t
    for function in functions.values():
        function.argtypes = (pointer, pitch, pointer, pitch, size, size)
        function.restype = None

    def copy(stored: NDArray[Any], source: NDArray[Any]) -> None:
        functions[stored.itemsize](
            stored.ctypes.data, stored.strides[0], source.ctypes.data, source.strides[0], *source.shape
        )

    if not all(_is_right(copy, itemsize) for itemsize in ITEM_SIZES):
        log.warning("transposed copies are numpy's, which are slower: %s does something else", path)
        return None
    return copy


def _is_right(copy: TransposedCopy, itemsize: int) -> bool:
    source = np.arange(19 * 23, dtype=f"u{itemsize}").reshape(19, 23)
    stored = np.zeros((23, 19), source.dtype)
    copy(stored, source)
    return np.array_equal(stored, source.T)


transposed_copy: Final = load(LIBRARY)
