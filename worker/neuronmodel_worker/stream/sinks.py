"""Where a plan's tensors go: into files on disk, or into memory.

A sink lends out the memory that a step fills, so that nothing is copied twice: a piece of a tensor itself, or a buffer
that is written when it is full.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.layouts.geometry import as_matrix
from neuronmodel_worker.plan.streamed import RANK_DTYPE, Plan
from neuronmodel_worker.stream.buffers import Buffers
from neuronmodel_worker.stream.dtypes import STORAGE, Array
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.steps import Step, every_rank

ALLOCATING_THREADS = 4


class Sink(Protocol):
    buffered: bool
    """Frames are memory of the run until they are put."""

    @property
    def seals(self) -> bool:
        """Ranks are worth completing one after the other."""

    def open(
        self, plan: Plan, meter: Meter, buffers: Buffers, rank_indices: Sequence[int], check_source: Callable[[], None]
    ) -> None:
        """Of the plan's ranks those at `rank_indices` will come. `check_source` raises SourceChanged where the source
        is not what it was when the plan was made."""

    def frame(self, step: Step) -> Array:
        """What a step fills: its rows × columns in storage form, zero where `step.padded`, stored transposed or not."""

    def put(self, step: Step, frame: Array) -> None:
        """The frame is complete. Of one tensor's steps one comes after the other, from the first byte on."""

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


class TensorSink:
    """Holds every rank's tensors: `tensors[i][name]` for the i-th rank of the plan; nothing of those not made."""

    buffered = False
    seals = False

    def __init__(self) -> None:
        self.tensors: list[dict[str, RankTensor]] = []

    def allocate(self, plan: Plan, rank_indices: Sequence[int] | None = None) -> None:
        """Take the memory now, every page of it: the first touch of fresh memory can take longer than to read what
        goes into it. Without this, pages are taken while they are filled."""
        self.tensors = _empty_ranks(plan, every_rank(plan) if rank_indices is None else rank_indices)

        def touch(rank: dict[str, RankTensor]) -> None:
            for tensor in rank.values():
                if tensor.dtype != RANK_DTYPE:
                    tensor.data.fill(0)

        with ThreadPoolExecutor(ALLOCATING_THREADS, thread_name_prefix="allocate") as pool:
            for _ in pool.map(touch, self.tensors):
                pass

    def open(
        self, plan: Plan, meter: Meter, buffers: Buffers, rank_indices: Sequence[int], check_source: Callable[[], None]
    ) -> None:
        if not self.tensors:
            self.tensors = _empty_ranks(plan, rank_indices)

    def frame(self, step: Step) -> Array:
        tensor = self.tensors[step.rank_index][step.target.name]
        stored = tensor.data.reshape(as_matrix(tensor.shape))
        if step.target.transposed:
            first = step.block.at_row + step.column
            return stored[first : first + step.columns].T
        first = step.block.at_row + step.row
        return stored[first : first + step.rows]

    def put(self, step: Step, frame: Array) -> None:
        """It is there already."""

    def finish(self) -> tuple[WrittenFile, ...]:
        return ()

    def abort(self) -> None:
        self.tensors = []


def _empty_ranks(plan: Plan, rank_indices: Sequence[int]) -> list[dict[str, RankTensor]]:
    made = frozenset(rank_indices)
    return [_empty_rank(plan, rank) if index in made else {} for index, rank in enumerate(plan.ranks)]


def _empty_rank(plan: Plan, rank: int) -> dict[str, RankTensor]:
    tensors = {t.name: RankTensor(t.dtype, t.shape, np.zeros(t.shape, STORAGE[t.dtype])) for t in plan.tensors}
    for name in plan.rank_tensors:
        tensors[name] = RankTensor(RANK_DTYPE, (1,), np.array([rank], STORAGE[RANK_DTYPE]))
    return tensors
