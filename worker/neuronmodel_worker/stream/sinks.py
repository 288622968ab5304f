"""Sinks: where a plan's tensors go, into files on disk or into memory.

A sink lends the memory that a step fills, so that nothing is copied twice: a part of a tensor itself, or a buffer that
is written when it is full.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.layouts.geometry import as_matrix
from neuronmodel_worker.plan.streamed import RANK_DTYPE, StreamedPlan
from neuronmodel_worker.stream.buffers import Buffers
from neuronmodel_worker.stream.dtypes import STORAGE
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.steps import Step, every_rank

ALLOCATING_THREADS = 4


class Sink(Protocol):
    buffered: bool
    """Whether frames are memory of the run until they are put."""

    @property
    def waits(self) -> bool:
        """Whether what is put is waited for, until a drive has it."""

    @property
    def seals(self) -> bool:
        """Whether ranks are to be completed one after the other."""

    def open(
        self,
        plan: StreamedPlan,
        meter: Meter,
        buffers: Buffers,
        rank_indices: Sequence[int],
        check_source: Callable[[], None],
    ) -> None:
        """Prepare for the plan's ranks at `rank_indices`. `check_source` raises SourceChanged where the source has
        changed since the plan was made."""

    def frame(self, step: Step) -> Array:
        """The memory that a step fills: its rows × columns in storage form, zeroed if `step.padded`, stored transposed
        or not."""

    def put(self, step: Step, frame: Array) -> None:
        """The frame is complete. The steps of one tensor come one after the other, from the first byte on."""

    def put_unchanged(self, step: Step, rows: Array) -> bool:
        """In place of `frame` and `put`, take rows of the source that are just what the step makes, where that saves a
        copy; contiguous, and not needed afterwards. Returns whether it did."""

    def finish(self) -> tuple[WrittenFile, ...]:
        """Everything has arrived: make it durable. Returns the files that were written, if any."""

    def abort(self) -> None:
        """The run has failed: leave nothing behind."""


@dataclass(frozen=True, slots=True)
class RankTensor:
    """A tensor of one rank. `data` has its shape; BF16 is stored as uint16, which torch takes without a copy:
    `torch.from_numpy(data).view(torch.bfloat16)`."""

    dtype: str
    shape: tuple[int, ...]
    data: Array


class TensorSink:
    """Keeps every rank's tensors in memory: `tensors[i][name]` for the i-th rank of the plan, empty for ranks that are
    not made."""

    buffered = False
    waits = False
    seals = False

    def __init__(self) -> None:
        self.tensors: list[dict[str, RankTensor]] = []

    def allocate(self, plan: StreamedPlan, rank_indices: Sequence[int] | None = None) -> None:
        """Allocate the memory now, every page of it: the first access to fresh memory can take longer than reading what
        goes into it. Without this, pages are allocated while they are filled."""
        self.tensors = _empty_ranks(plan, every_rank(plan) if rank_indices is None else rank_indices)

        def touch(rank: dict[str, RankTensor]) -> None:
            for tensor in rank.values():
                if tensor.dtype != RANK_DTYPE:
                    tensor.data.fill(0)

        with ThreadPoolExecutor(ALLOCATING_THREADS, thread_name_prefix="allocate") as pool:
            for _ in pool.map(touch, self.tensors):
                pass

    def open(
        self,
        plan: StreamedPlan,
        meter: Meter,
        buffers: Buffers,
        rank_indices: Sequence[int],
        check_source: Callable[[], None],
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
        """The frame is part of the tensor itself."""

    def put_unchanged(self, step: Step, rows: Array) -> bool:
        return False

    def finish(self) -> tuple[WrittenFile, ...]:
        return ()

    def abort(self) -> None:
        self.tensors = []


def _empty_ranks(plan: StreamedPlan, rank_indices: Sequence[int]) -> list[dict[str, RankTensor]]:
    made = frozenset(rank_indices)
    return [_empty_rank(plan, rank) if index in made else {} for index, rank in enumerate(plan.ranks)]


def _empty_rank(plan: StreamedPlan, rank: int) -> dict[str, RankTensor]:
    tensors = {t.name: RankTensor(t.dtype, t.shape, np.zeros(t.shape, STORAGE[t.dtype])) for t in plan.tensors}
    for name in plan.rank_tensors:
        tensors[name] = RankTensor(RANK_DTYPE, (1,), np.array([rank], STORAGE[RANK_DTYPE]))
    return tensors
