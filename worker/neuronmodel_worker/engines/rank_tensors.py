"""Checks that rank tensors are those of a graph, and converts them to PyTorch's tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuronmodel_worker.engines.interface import Ranks
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.stream import RankTensor

if TYPE_CHECKING:
    import torch

TensorForm = tuple[str, tuple[int, ...]]
"""The type, by safetensors' names, and the shape of a tensor."""

TorchRanks = Sequence[Mapping[str, "torch.Tensor"]]
"""Every rank's tensors by name, as PyTorch tensors."""


def check_ranks(ranks: Ranks, numbers: range, forms: Mapping[str, TensorForm], directory: Path) -> None:
    """Raises ArtifactDamaged unless the tensors of the ranks `numbers` are, by name, type and shape, those that the
    graph in `directory` takes."""
    if len(ranks) != len(numbers):
        raise ArtifactDamaged(directory, f"its graph takes {len(numbers)} ranks, and tensors of {len(ranks)} came")
    for number, rank in zip(numbers, ranks, strict=True):
        for name, (dtype, shape) in forms.items():
            expected, tensor = f"{dtype} {list(shape)}", rank.get(name)
            found = f"{tensor.dtype} {list(tensor.data.shape)}" if tensor else "missing"
            if found != expected:
                what = f"the tensor {name} of rank {number} is {found}, and its graph takes {expected}"
                raise ArtifactDamaged(directory, what)
        if surplus := sorted(rank.keys() - forms.keys()):
            raise ArtifactDamaged(directory, f"rank {number} has a tensor {surplus[0]}, and its graph takes none such")


def as_torch(tensor: RankTensor) -> "torch.Tensor":
    """The tensor as a PyTorch tensor with the same memory."""
    import torch

    wrapped = torch.from_numpy(tensor.data)
    return wrapped.view(torch.bfloat16) if tensor.dtype == "BF16" else wrapped
