"""Where a plan's tensors go: into files on disk, or into memory.

A sink lends out the memory that a step fills, so that nothing is copied twice: a piece of a tensor itself, or a buffer
that is written when it is full.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from neuronmodel_worker.disk import WrittenFile
from neuronmodel_worker.layouts.geometry import Piece, as_matrix
from neuronmodel_worker.plan import RANK_DTYPE, Plan
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.numbers import STORAGE, Array
from neuronmodel_worker.stream.steps import Step


class Sink(Protocol):
    def open(self, plan: Plan, meter: Meter) -> None: ...

    def frame(self, step: Step) -> AbstractContextManager[Array]:
        """A matrix as high and wide as the step's frame, in storage form, zero where `step.padded`; what the caller
        has put there at the end of the context goes to the step's place. Steps of one tensor come in order, from one
        thread."""

    def finish(self) -> tuple[WrittenFile, ...]:
        """Everything arrived: make it last. The files that were written, if any."""

    def abort(self) -> None:
        """Something failed: leave nothing behind."""


@dataclass(frozen=True, slots=True)
class RankTensor:
    """A tensor of one rank. `data` has its shape; a BF16 one is held as uint16, which torch takes without a copy:
    `torch.from_numpy(data).view(torch.bfloat16)`."""

    dtype: str
    shape: tuple[int, ...]
    data: Array


def inside(matrix: Array, place: Piece) -> Array:
    return matrix[place.row : place.row + place.rows, place.column : place.column + place.columns]


class TensorSink:
    """Holds every rank's tensors: `tensors[i][name]` for the i-th rank of the plan."""

    def __init__(self) -> None:
        self.tensors: list[dict[str, RankTensor]] = []

    def open(self, plan: Plan, meter: Meter) -> None:
        self.tensors = [_empty_rank(plan, rank) for rank in plan.ranks]

    @contextmanager
    def frame(self, step: Step) -> Iterator[Array]:
        tensor = self.tensors[step.rank_index][step.target.name]
        place = inside(tensor.data.reshape(as_matrix(tensor.shape)), step.rectangle)
        yield place.T if step.target.transposed else place

    def finish(self) -> tuple[WrittenFile, ...]:
        return ()

    def abort(self) -> None:
        self.tensors = []


def _empty_rank(plan: Plan, rank: int) -> dict[str, RankTensor]:
    tensors = {t.name: RankTensor(t.dtype, t.shape, np.zeros(t.shape, STORAGE[t.dtype])) for t in plan.tensors}
    for name in plan.rank_tensors:
        tensors[name] = RankTensor(RANK_DTYPE, (1,), np.array([rank], STORAGE[RANK_DTYPE]))
    return tensors
