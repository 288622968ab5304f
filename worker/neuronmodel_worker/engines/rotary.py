"""Rotary position embeddings in transformers' own order of float32 operations.

A frequency that is off by one unit in the last place turns, at position 200, into logits that are off by 0.8e-4.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def rotary_frequencies(theta: float, scaling: Mapping[str, float] | None, head_size: int) -> Tensor:
    """Radians a position in float32, one for each pair of a head's elements; see `LlamaShape.rope_scaling`."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.int64).to(torch.float32) / head_size
    plain: Tensor = 1.0 / (theta**exponents)
    if not scaling:
        return plain
    if "low_freq_factor" in scaling:
        return _llama_three(plain, scaling)
    return plain / scaling["factor"]


def _llama_three(plain: Tensor, scaling: Mapping[str, float]) -> Tensor:
    """Long wavelengths are stretched by `factor`, short ones kept, and those between blended (Llama 3.1)."""
    factor, low, high = scaling["factor"], scaling["low_freq_factor"], scaling["high_freq_factor"]
    trained = scaling["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / plain
    stretched = torch.where(wavelengths > trained / low, plain / factor, plain)
    share = (trained / wavelengths - low) / (high - low)
    blended = (1 - share) * stretched / factor + share * stretched
    between = (wavelengths >= trained / high) & (wavelengths <= trained / low)
    return torch.where(between, blended, stretched)
