"""Casts and products against PyTorch's own, over every 16-bit pattern and hard float32 values."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neuronmodel_worker.stream.numbers import STORAGE, fill

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
TARGETS = ["BF16", "F16", "F32"]


def hard_values(dtype: str) -> NDArray[Any]:
    """Every pattern of a 16-bit type; of the wider ones random patterns and those around halfway between two
    16-bit values, where rounding shows."""
    every = np.arange(65536, dtype=np.uint16)
    if dtype in ("BF16", "F16"):
        return every.view(STORAGE[dtype]).reshape(256, 256)
    words = np.random.default_rng(7).integers(0, 2**32, 65536, np.uint32)
    halves = (every.astype(np.uint32) << 16)[:, None] + np.array([0x7FFF, 0x8000, 0x8001, 0x1000], np.uint32)
    singles = np.concatenate([words, halves.ravel()]).view(np.float32)
    with np.errstate(invalid="ignore"):
        return singles.astype(STORAGE[dtype]).reshape(-1, 256)


def as_torch(values: NDArray[Any], dtype: str) -> torch.Tensor:
    return torch.from_numpy(values).view(TORCH[dtype])


def assert_same(found: NDArray[Any], expected: torch.Tensor, dtype: str) -> None:
    """Bit for bit, but for the payload of what is not a number."""
    ours = as_torch(found, dtype)
    assert torch.equal(torch.isnan(ours), torch.isnan(expected))
    number = ~torch.isnan(expected)
    integer = torch.int32 if dtype == "F32" else torch.int16
    assert torch.equal(ours[number].view(integer), expected[number].view(integer))


@pytest.mark.parametrize(("source", "target"), list(product(TORCH, TARGETS)))
@pytest.mark.parametrize("transposed", [False, True])
def test_casts_round_as_pytorch_does(source: str, target: str, transposed: bool) -> None:
    values = hard_values(source)
    stored = np.empty(values.shape[::-1] if transposed else values.shape, STORAGE[target])
    fill(stored.T if transposed else stored, target, values, source)
    expected = as_torch(values, source).to(TORCH[target])
    assert_same(stored, expected.T.contiguous() if transposed else expected, target)


@pytest.mark.parametrize(("weight", "gamma", "target"), list(product(TORCH, TORCH, TARGETS)))
def test_products_have_pytorchs_promoted_type(weight: str, gamma: str, target: str) -> None:
    values = hard_values(weight)
    factor = np.ascontiguousarray(hard_values(gamma).reshape(-1)[1 :: len(hard_values(gamma))][: values.shape[1]])
    stored = np.empty(values.shape, STORAGE[target])
    fill(stored, target, values, weight, (factor, gamma))
    expected = (as_torch(values, weight) * as_torch(factor, gamma)).to(TORCH[target])
    assert_same(stored, expected, target)
