"""Copies, casts and products of weights, bit for bit as PyTorch does them.

A BF16 tensor is stored as uint16, which numpy and torch can share, and viewed as bfloat16 only for computing.
"""

import threading
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.stream.dtypes import VALUES
from neuronmodel_worker.stream.transpose import copy_transposed, spans, transpose

# Elements that are computed at once: at most half a megabyte as float64, which stays in the cache.
BLOCK_ELEMENTS: Final = 1 << 16


def fill(into: Array, dtype: str, source: Array, source_dtype: str, factor: tuple[Array, str] | None = None) -> None:
    """Write `source` into `into`, both matrices in storage form and of one shape, multiplied and cast on the way.

    The factor has one element a column. The product has PyTorch's promoted type of the two and is rounded to it once,
    then the cast rounds to nearest even. `into` may be a transposed view; `source` need not be aligned.
    """
    same = source_dtype == dtype and factor is None
    by_rows = into.strides[1] == into.itemsize or into.shape[1] == 1
    if same and by_rows:
        np.copyto(into, source.view(into.dtype))
    elif same:
        copy_transposed(into, source)
    elif by_rows:
        _conversion(dtype, source_dtype, factor)(into, source, 0)
    else:
        transpose(into, source, _conversion(dtype, source_dtype, factor))


@dataclass(frozen=True, slots=True)
class _Conversion:
    """Multiplies by a factor of the type in which the product is exact, then casts through `between` or directly."""

    dtype: np.dtype[Any]
    source_dtype: np.dtype[Any]
    factor: Array | None
    between: np.dtype[Any] | None

    def __call__(self, into: Array, source: Array, column: int) -> None:
        values, results = source.view(self.source_dtype), into.view(self.dtype)
        with np.errstate(all="ignore"):
            for columns in spans(into.shape[1], BLOCK_ELEMENTS):
                height = BLOCK_ELEMENTS // (columns.stop - columns.start)
                for row in range(0, into.shape[0], height):
                    block = np.s_[row : row + height, columns]
                    self._block(results[block], values[block], column + columns.start)

    def _block(self, into: Array, values: Array, column: int) -> None:
        if self.factor is not None:
            values = _copied_into(_buffers.product, self.factor.dtype, values)
            np.multiply(values, self.factor[column : column + values.shape[1]], out=values)
        if self.between is not None:
            values = _copied_into(_buffers.between, self.between, values)
        np.copyto(into, values, casting="unsafe")


class _ConversionBuffers(threading.local):
    """Buffers of one thread, which are reused: fresh memory costs more time than computing."""

    def __init__(self) -> None:
        self.product = np.empty(BLOCK_ELEMENTS, np.float64)
        self.between = np.empty(BLOCK_ELEMENTS, np.float32)


_buffers = _ConversionBuffers()


def _copied_into(memory: Array, dtype: np.dtype[Any], values: Array) -> Array:
    copy = memory.view(dtype)[: values.size].reshape(values.shape)
    np.copyto(copy, values, casting="unsafe")
    return copy


def _conversion(dtype: str, source_dtype: str, factor: tuple[Array, str] | None) -> _Conversion:
    promoted, exact = source_dtype, None
    if factor is not None:
        vector, factor_dtype = factor
        promoted = _promote(source_dtype, factor_dtype)
        exact = vector.view(VALUES[factor_dtype]).astype(VALUES["F64" if promoted == "F64" else "F32"])
    between = None
    if promoted == "F64" and dtype in ("BF16", "F16"):
        between = VALUES["F32"]  # PyTorch rounds twice here
    elif factor is not None and promoted in ("BF16", "F16") and promoted != dtype:
        between = VALUES[promoted]
    return _Conversion(VALUES[dtype], VALUES[source_dtype], exact, between)


def _promote(one: str, other: str) -> str:
    if one == other:
        return one
    return "F64" if "F64" in (one, other) else "F32"
