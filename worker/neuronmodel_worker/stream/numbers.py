"""Copies, casts and products of weights, bit for bit as PyTorch does them.

A BF16 tensor is held as uint16 (numpy and torch can share that) and seen as bfloat16 only while it is computed with.
"""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# As values, to compute with.
VALUES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I32": np.dtype(np.int32),
}
# As held in memory: what torch.from_numpy takes.
STORAGE: dict[str, np.dtype[Any]] = {**VALUES, "BF16": np.dtype(np.uint16)}

# A transposed copy in blocks of this many rows and columns stays in the cache: four times as fast as in one go.
BLOCK_ROWS, BLOCK_COLUMNS = 64, 1024


def fill(into: Array, dtype: str, source: Array, source_dtype: str, factor: tuple[Array, str] | None = None) -> None:
    """Write `source` into `into`, both matrices in storage form and of one shape, multiplied and cast on the way.

    The factor has one element a column. The product has PyTorch's promoted type of the two and is rounded to it once,
    then the cast rounds to nearest even.
    """
    if factor is not None:
        source, source_dtype = _multiply(source.view(VALUES[source_dtype]), source_dtype, *factor)
    if source_dtype != dtype:
        source = _cast(source.view(VALUES[source_dtype]), dtype)
    _copy(into, source.view(into.dtype))


def _copy(into: Array, source: Array) -> None:
    if into.strides[1] == into.itemsize or into.shape[1] == 1:
        np.copyto(into, source)
        return
    for row in range(0, into.shape[0], BLOCK_ROWS):
        for column in range(0, into.shape[1], BLOCK_COLUMNS):
            block = np.s_[row : row + BLOCK_ROWS, column : column + BLOCK_COLUMNS]
            np.copyto(into[block], source[block])


def _multiply(values: Array, dtype: str, factor: Array, factor_dtype: str) -> tuple[Array, str]:
    promoted = _promote(dtype, factor_dtype)
    exact = VALUES["F64" if promoted == "F64" else "F32"]
    with np.errstate(all="ignore"):
        product = values.astype(exact) * factor.view(VALUES[factor_dtype]).astype(exact)
    return _cast(product, promoted), promoted


def _promote(one: str, other: str) -> str:
    if one == other:
        return one
    return "F64" if "F64" in (one, other) else "F32"


def _cast(values: Array, dtype: str) -> Array:
    with np.errstate(all="ignore"):
        if values.dtype == np.float64 and dtype in ("BF16", "F16"):
            values = values.astype(np.float32)  # PyTorch rounds twice here
        return values.astype(VALUES[dtype])
