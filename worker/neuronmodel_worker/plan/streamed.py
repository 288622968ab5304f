"""The layout of one checkpoint at one degree of parallelism, as data: made from headers alone, counted, then
streamed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource
from neuronmodel_worker.layouts import Layout, lay_out
from neuronmodel_worker.layouts.geometry import Block, Rectangle, SourcePart, Split, Target, as_matrix, row_bytes

RANK_DTYPE = "I32"
RANK_NBYTES = 4


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor in a rank's file; all ranks have the same ones."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of a source tensor that are needed."""

    source: TensorSource
    rows: range


def join(one: range, other: range) -> range:
    """Returns the smallest range around both; an empty range adds nothing."""
    if not one or not other:
        return one or other
    return range(min(one.start, other.start), max(one.stop, other.stop))


class ModelPlan(Protocol):
    """What is known of a model's shards before they are made, whoever makes them: a `StreamedPlan`, or a `NativePlan`,
    whose sizes are estimates."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def family(self) -> str:
        """The model's type."""

    @property
    def ranks(self) -> range:
        """The ranks that are made, by their numbers in the whole model."""

    @property
    def is_whole(self) -> bool:
        """Whether all ranks of the model are made."""

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def vocabulary(self) -> int | None:
        """The vocabulary size, if config.json has it."""

    @property
    def reads(self) -> Mapping[str, Read]:
        """What is read, by the name of the source tensor."""

    @property
    def source_bytes(self) -> int:
        """The number of bytes that are read."""

    @property
    def rank_bytes(self) -> int:
        """The bytes of one rank's tensors."""

    @property
    def output_bytes(self) -> int:
        """The bytes of all ranks that are made."""

    def layout_inputs(self) -> dict[str, object]:
        """Returns what determines the shards' bytes, apart from the source's content and the version of the
        software."""


@dataclass(frozen=True)
class StreamedPlan:
    """`layout.targets` say which rectangles of which source fill which tensor; see `layouts.geometry`."""

    checkpoint: Checkpoint
    layout: Layout

    @property
    def family(self) -> str:
        return self.layout.family

    @property
    def ranks(self) -> range:
        """The ranks that are made, by their numbers in the whole model."""
        return self.layout.flags.ranks

    @property
    def is_whole(self) -> bool:
        return len(self.ranks) == self.layout.flags.tp_degree

    @property
    def vocabulary(self) -> int | None:
        return vocabulary_of(self.layout.sizes)

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.layout.targets

    @property
    def rank_tensors(self) -> tuple[str, ...]:
        return self.layout.rank_tensors

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.layout.warnings

    @cached_property
    def tensors(self) -> tuple[OutputTensor, ...]:
        """What every rank holds, in the order of its file. The rank's number comes last, so that large tensors stay
        aligned."""
        weights = [OutputTensor(t.name, t.dtype, t.shape, t.nbytes) for t in self.targets]
        numbers = [OutputTensor(name, RANK_DTYPE, (1,), RANK_NBYTES) for name in self.rank_tensors]
        return (*weights, *numbers)

    @cached_property
    def reads(self) -> Mapping[str, Read]:
        """What is read of each source tensor, once: all of it, unless only some ranks are made."""
        reads: dict[str, Read] = {}
        source_rows = cache(Split.source_rows)
        for part in (part for target in self.targets for part in target.parts()):
            rows, before = source_rows(part.split), reads.get(part.source.name)
            reads[part.source.name] = Read(part.source, join(rows, before.rows) if before else rows)
            if part.factor:
                reads[part.factor.name] = Read(part.factor, range(as_matrix(part.factor.shape)[0]))
        return reads

    @property
    def source_bytes(self) -> int:
        return sum(len(read.rows) * row_bytes(read.source) for read in self.reads.values())

    @property
    def rank_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def output_bytes(self) -> int:
        return self.rank_bytes * len(self.ranks)

    def layout_inputs(self) -> dict[str, object]:
        """Returns everything that determines the shards' bytes, apart from the source's content."""
        return self.layout.inputs()


def vocabulary_of(config: Mapping[str, object]) -> int | None:
    """Returns vocab_size if it is a positive integer."""
    found = config.get("vocab_size")
    return found if isinstance(found, int) and found > 0 else None


def make_plan(
    checkpoint: Checkpoint, neuron_config: Mapping[str, object], model_type: str | None = None
) -> StreamedPlan:
    """Makes the plan. `neuron_config` has NxD Inference's NeuronConfig fields by their own names; `model_type`
    overrides config.json.

    Raises UnknownModelType, ConfigInvalid, LayoutRefused, TensorMissing or TensorShapeMismatch.
    """
    return StreamedPlan(checkpoint, lay_out(checkpoint, neuron_config, model_type))


__all__ = [
    "Block",
    "ModelPlan",
    "OutputTensor",
    "Read",
    "Rectangle",
    "SourcePart",
    "Split",
    "StreamedPlan",
    "Target",
    "make_plan",
]
