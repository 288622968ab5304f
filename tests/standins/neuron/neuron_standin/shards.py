"""Rank tensors of a checkpoint by the layout's rules as the tests write them out: slow, and none of the worker's code.

As the library does it: a tensor that the checkpoint lacks is left out without a word, ranks past the degree are made,
and what a kernel wants transposed is remembered for the life of the process by its name, so that a second model gets
the first one's.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray

from tests import reference_layout

Array = NDArray[Any]
Tensors = dict[str, torch.Tensor]

_transposed: dict[tuple[str, int], torch.Tensor] = {}


def shard(config: Mapping[str, Any], flags: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> list[Tensors]:
    """A family that the rules leave out is cut as Llama is."""
    if config["model_type"] not in reference_layout.DEFAULTS:
        config = {**config, "model_type": "llama"}
    arrays = {name: _array(tensor) for name, tensor in tensors.items()}
    start, degree = int(flags["start_rank_id"]), int(flags["tp_degree"])
    shards = []
    for rank in range(start, start + int(flags["local_ranks_size"])):
        own = {**flags, "start_rank_id": min(rank, degree - 1), "local_ranks_size": 1}
        made = {name: _tensor(array) for name, array in _without_missing(config, own, arrays).items()}
        shards.append(_from_the_cache(made, flags, rank))
    return shards


def _without_missing(
    config: Mapping[str, Any], flags: Mapping[str, Any], arrays: Mapping[str, Array]
) -> dict[str, Array]:
    """What a missing tensor would have decided differs between two fillings of it."""
    held = {name.removeprefix("model.") for name in arrays}
    missing = {name: shape for name, shape in reference_layout.needed(config).items() if name not in held}
    made = [
        reference_layout.reference_shards(
            config, flags, {**arrays, **{name: np.full(shape, value, np.float32) for name, shape in missing.items()}}
        )[0]
        for value in ((0, 1) if missing else (0,))
    ]
    first, last = made[0], made[-1]
    return {
        name: array
        for name, array in first.items()
        if np.array_equal(array, last[name], equal_nan=False) or not missing
    }


def _from_the_cache(shard: Tensors, flags: Mapping[str, Any], rank: int) -> Tensors:
    return {
        name: _transposed.setdefault((name, rank), tensor) if _is_transposed(name, flags) else tensor
        for name, tensor in shard.items()
    }


def _is_transposed(name: str, flags: Mapping[str, Any]) -> bool:
    if name.endswith("Wqkv.weight"):
        return reference_layout.any_of(flags, reference_layout.QKV_KERNELS)
    if name.endswith("o_proj.o_proj.weight"):
        return reference_layout.any_of(flags, reference_layout.OUTPUT_KERNELS)
    is_mlp = name.endswith(("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"))
    return is_mlp and reference_layout.any_of(flags, reference_layout.MLP_KERNELS)


def _array(tensor: torch.Tensor) -> Array:
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _tensor(array: Array) -> torch.Tensor:
    whole = np.array(array, order="C")  # of its own: safetensors writes no two tensors of one memory
    if whole.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(whole.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(whole)
