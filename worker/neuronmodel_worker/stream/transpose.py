"""Transposed copies of matrices, through tiles that stay in a core's own cache.

A plain transposed copy of 16-bit elements touches another cache line for every two bytes: 0.4 GB/s. A copy of the same
elements is made by the native library, at 4 to 8 GB/s. Where that is not there, and where elements are cast or
multiplied on the way, four elements of a row move at once, as a word of eight bytes, and numpy's cast to a narrower
integer, which is vectorised, splits the words: 2 to 4 GB/s.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.stream import native

Write = Callable[[Array, Array, int], None]
"""Writes a block of the source into one of the same shape; the number is the first of its columns."""

WORD: Final = np.dtype(np.uint64)
LINE_BYTES: Final = 64

# Measured with 2 MiB of second-level cache; half and twice as much make little difference.
TILE_BYTES: Final = 1 << 19
TILE_ROWS, TILE_COLUMNS = 1024, 2048
PART_BYTES: Final = 1 << 18
WIDE_COLUMNS: Final = 256

# Smaller copies are faster without tiles; so are larger ones whose rows do not evict each other from the cache.
DIRECT_ROWS, MIN_COLUMN_ROWS = 512, 4
FEW_ROWS, FEW_ROWS_OF_WIDE, FEW_COLUMNS = 32, 128, 16
SMALL_BYTES, SMALL_BYTES_APART = 1 << 16, 1 << 19
CROWDING_BYTES: Final = 512
"""Rows that are multiples of this apart share an eighth of the first-level cache or less."""


class _TransposeBuffers(threading.local):
    """Buffers of one thread, which are reused: fresh memory costs more time than the copies."""

    def __init__(self) -> None:
        self.part = np.empty(PART_BYTES, np.uint8)
        self.tile = np.empty(TILE_BYTES + WORD.itemsize, np.uint8)


_buffers = _TransposeBuffers()


def copy_transposed(into: Array, source: Array) -> None:
    """Copy a matrix into one of the same type and shape, where a column of `into` is contiguous."""
    source = source.view(into.dtype)
    by_library = native.transposed_copy
    if by_library and into.itemsize in native.ITEM_SIZES and into.nbytes >= SMALL_BYTES and _is_dense(into, source):
        by_library(into.T, source)
    else:
        transpose(into, source, _copy)


def _is_dense(into: Array, source: Array) -> bool:
    return into.strides[0] == into.itemsize == source.strides[1]


def _copy(into: Array, source: Array, _: int) -> None:
    np.copyto(into, source)


def transpose(into: Array, source: Array, write: Write) -> None:
    """Have `write` fill `into` from `source`, both of one shape, where a column of `into` is contiguous."""
    num_rows, num_columns = into.shape
    narrow = into.itemsize < WORD.itemsize // 2
    small = SMALL_BYTES if source.strides[0] % CROWDING_BYTES == 0 else SMALL_BYTES_APART
    if num_rows <= (FEW_ROWS if narrow else FEW_ROWS_OF_WIDE) or num_columns < FEW_COLUMNS or into.nbytes < small:
        _directly(into, source, write)
        return
    for rows in spans(num_rows, TILE_ROWS if narrow else num_rows):
        height = rows.stop - rows.start
        most = min(TILE_COLUMNS, TILE_BYTES // (height * into.itemsize)) if narrow else WIDE_COLUMNS
        for columns in spans(num_columns, most):
            block = rows, columns
            (_in_words if narrow else _in_elements)(into[block].T, source[block], write, columns.start)


def spans(length: int, most: int, multiple: int = LINE_BYTES // 2) -> Iterator[slice]:
    """Cuts `length` into equal slices of at most `most`, each of whole multiples but the last."""
    most = max(multiple, most // multiple * multiple)
    parts = max(1, -(-length // most))
    step = max(1, -(-length // (parts * multiple))) * multiple
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _directly(into: Array, source: Array, write: Write) -> None:
    """Copy with one inner loop for each column, or for each row where a column has few elements."""
    num_rows = into.shape[0]
    step = DIRECT_ROWS if num_rows > MIN_COLUMN_ROWS else 1
    for row in range(0, num_rows, step):
        write(into[row : row + step], source[row : row + step], 0)


def _in_elements(stored: Array, source: Array, write: Write, column: int) -> None:
    for span, part in _parts(stored.dtype, source, write, column):
        np.copyto(stored[:, span], part[:, : len(stored)].T)


def _in_words(stored: Array, source: Array, write: Write, column: int) -> None:
    num_columns, num_rows = stored.shape
    itemsize, a_word = stored.itemsize, WORD.itemsize // stored.itemsize
    num_words = -(-num_columns // a_word)
    tile = _buffers.tile[: num_words * num_rows * WORD.itemsize].view(WORD).reshape(num_words, num_rows)
    for span, part in _parts(stored.dtype, source, write, column):
        np.copyto(tile[:, span], part.view(WORD)[:, :num_words].T)
    # An element is what the narrowing cast leaves of the eight bytes that begin with it (little-endian).
    elements: Array = np.ndarray(
        (num_words, a_word, num_rows),
        WORD,
        _buffers.tile.data,
        strides=(num_rows * WORD.itemsize, itemsize, WORD.itemsize),
    )
    stored = stored.view(f"u{itemsize}")
    whole, rest = divmod(num_columns, a_word)
    np.copyto(stored[: whole * a_word].reshape(whole, a_word, num_rows), elements[:whole], casting="unsafe")
    if rest:
        np.copyto(stored[whole * a_word :], elements[whole, :rest], casting="unsafe")


def _parts(dtype: np.dtype[Any], source: Array, write: Write, column: int) -> Iterator[tuple[slice, Array]]:
    """Copies of the source in aligned memory, some rows at a time, with rows an odd number of cache lines apart: rows
    of a checkpoint are mostly a multiple of 4 KiB apart, and the cache holds few lines at such distances."""
    num_columns = source.shape[1]
    pitch = (-(-num_columns * dtype.itemsize // LINE_BYTES) | 1) * LINE_BYTES
    for span in spans(len(source), PART_BYTES // pitch, multiple=8):
        height = span.stop - span.start
        part = _buffers.part[: height * pitch].view(dtype).reshape(height, -1)
        write(part[:, :num_columns], source[span], column)
        yield span, part
