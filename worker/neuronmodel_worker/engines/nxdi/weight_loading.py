"""Gives NxD Inference its weights from this project's readers instead of its own files.

The library's `load_weights` is replaced, on one application or on the class of all, by a method with the same keywords
that ends in the same call, `traced_model.nxd_model.initialize`. Everything else in `load()` is unchanged.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from neuronmodel_worker.engines.interface import Ranks
from neuronmodel_worker.engines.rank_tensors import TensorForm, TorchRanks, as_torch, check_ranks
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.plan.streamed import RANK_DTYPE

if TYPE_CHECKING:
    pass

WeightsProvider = Callable[[int, int], TorchRanks]
"""Is called with the number of the first rank and of the ranks here; returns every rank's tensors by name."""


@dataclass(frozen=True)
class ExpectedTensors:
    """The tensors that a compiled model takes. `forms` is None for tensors that NxD Inference has made itself, of which
    nothing is known."""

    directory: Path
    ranks: range
    forms: Mapping[str, TensorForm] | None
    rank_tensors: tuple[str, ...] = ()
    """The tensors that contain their rank's number."""

    def check(self, ranks: Ranks) -> None:
        """Raises ArtifactDamaged for other tensors. The library itself checks nothing."""
        if self.forms is None:
            return
        check_ranks(ranks, self.ranks, self.forms, self.directory)
        for number, rank in zip(self.ranks, ranks, strict=True):
            for name in self.rank_tensors:
                if rank[name].dtype == RANK_DTYPE and (found := int(rank[name].data.flat[0])) != number:
                    what = f"the tensors that came as rank {number} are those of rank {found}, by their {name}"
                    raise ArtifactDamaged(self.directory, what)


def checked_weights(ranks: Ranks, expected: ExpectedTensors) -> WeightsProvider:
    """A provider of tensors in memory, which PyTorch shares. It raises ArtifactDamaged when it is called."""

    def provide(start: int, count: int) -> TorchRanks:
        if range(start, start + count) != expected.ranks:
            what = f"it was compiled for ranks {_shown(expected.ranks)}, and {_shown(range(start, start + count))} load"
            raise ArtifactDamaged(expected.directory, what)
        expected.check(ranks)
        return [{name: as_torch(tensor) for name, tensor in rank.items()} for rank in ranks]

    return provide


def install(application_or_class: Any, provider: WeightsProvider) -> None:
    """Replace `load_weights` on an instance of NeuronApplicationBase, or on that class for all new instances."""

    def load_weights(
        self: Any, compiled_model_path: str, start_rank_id: int | None = None, local_ranks_size: int | None = None
    ) -> None:
        import torch

        if self.traced_model is None:
            raise RuntimeError("load_weights was called before the compiled model was loaded")
        start = self.neuron_config.start_rank_id if start_rank_id is None else start_rank_id
        count = self.neuron_config.local_ranks_size if local_ranks_size is None else local_ranks_size
        weights = [dict(rank) for rank in provider(start, count)]
        first = torch.tensor([start], dtype=torch.int32, device="cpu")
        self.traced_model.nxd_model.initialize(weights, first)

    if isinstance(application_or_class, type):
        application_or_class.load_weights = load_weights  # type: ignore[attr-defined]
    else:
        application_or_class.load_weights = MethodType(load_weights, application_or_class)


@contextmanager
def installed(application: Any, provider: WeightsProvider) -> Iterator[None]:
    """Replace `load_weights` while one application loads: the provider keeps all weights in memory."""
    install(application, provider)
    try:
        yield
    finally:
        del application.load_weights


def _shown(ranks: range) -> str:
    return f"{ranks.start} to {ranks.stop - 1}"
