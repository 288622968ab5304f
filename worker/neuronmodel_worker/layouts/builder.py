"""The builder that a family's layout adds its tensors to: it knows the checkpoint, the flags and the rules for
types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource, explain_other_names, explain_tied_names
from neuronmodel_worker.failures import ConfigInvalid, LayoutRefused, TensorMissing, TensorShapeMismatch
from neuronmodel_worker.layouts.geometry import Block, Shape, SourcePart, Target
from neuronmodel_worker.layouts.heads import CacheShape
from neuronmodel_worker.layouts.sharding_flags import Flags

# The types that can be cast; quantized and integer weights need scales that no layout here knows.
FLOATING = ("BF16", "F16", "F32", "F64")


# The sizes that decide which tensors exist, and not only their shapes.
COUNTS = ("num_hidden_layers", "num_experts", "num_local_experts")


@dataclass
class LayoutBuilder:
    """Collects targets. `dtype` is the type of the tensors; `declared` in the methods is the type that a parameter was
    declared with, where that is another one, and has an effect with `cast_type: as-declared` only."""

    checkpoint: Checkpoint
    flags: Flags
    dtype: str
    assumed: Mapping[str, int] = field(default_factory=dict)
    """The sizes that config.json does not give."""
    sizes: Mapping[str, object] = field(default_factory=dict)
    """All sizes, those of config.json and transformers' defaults."""
    targets: list[Target] = field(default_factory=list)
    rank_tensors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cache: CacheShape | None = None
    taken: set[str] = field(default_factory=set)
    """The names in the checkpoint of the tensors that were taken."""

    def __post_init__(self) -> None:
        self.warnings += self.checkpoint.warnings

    def find(self, name: str) -> TensorSource | None:
        """The checkpoint's tensor of that name, with or without the prefix `model.`. Raises LayoutRefused."""
        bare = name.removeprefix("model.")
        plain, prefixed = self.checkpoint.tensors.get(bare), self.checkpoint.tensors.get(f"model.{bare}")
        if plain and prefixed:
            raise LayoutRefused(
                f"The checkpoint in {self.checkpoint.path} holds {bare} and model.{bare}, which are the same tensor of "
                "the model. Remove the one that is not meant."
            )
        return plain or prefixed

    def take(self, name: str, shape: Shape) -> TensorSource:
        """The checkpoint's tensor of that name. Raises TensorMissing, TensorShapeMismatch, ConfigInvalid where the
        sizes were assumed, and LayoutRefused."""
        source = self.find(name)
        if source is None:
            self._refuse_missing(name, shape)
        if source.shape != shape:
            self._refuse_assumed_sizes(name, source, shape)
            raise TensorShapeMismatch(name, source.shape, shape)
        if source.dtype not in FLOATING:
            raise LayoutRefused(
                f"The tensor {name} has the type {source.dtype}, and shards are made from {', '.join(FLOATING)} alone. "
                "Use a checkpoint that is not quantized."
            )
        self.taken.add(source.name)
        return source

    def _refuse_missing(self, name: str, shape: Shape) -> NoReturn:
        """Raises TensorMissing, or ConfigInvalid for assumed sizes. How the tensors are named instead comes first,
        because it says more than which sizes were assumed."""
        names = self.checkpoint.tensors.keys()
        if explanation := explain_other_names(name, names):
            raise TensorMissing(name, self.checkpoint.path, explanation)
        if unusable := self.checkpoint.unusable:
            more = f" {len(unusable) - 1} more of its files are missing or unreadable." if len(unusable) > 1 else ""
            raise TensorMissing(name, self.checkpoint.path, f"{unusable[0]}{more}")
        self._refuse_assumed_sizes(name, None, shape)
        explanation = explain_tied_names(name, names, self.checkpoint.config.get("tie_word_embeddings"))
        raise TensorMissing(name, self.checkpoint.path, explanation)

    def _refuse_assumed_sizes(self, name: str, source: TensorSource | None, shape: Shape) -> None:
        assumed = self.assumed if source else {k: v for k, v in self.assumed.items() if k in COUNTS}
        if assumed:
            found = f"has shape {list(source.shape)}" if source else "is missing"
            raise ConfigInvalid(
                f"config.json in {self.checkpoint.path} gives no {' and no '.join(assumed)}; with transformers' "
                f"defaults ({', '.join(map(str, assumed.values()))}) the model has a tensor {name} of shape "
                f"{list(shape)}, which {found} in the checkpoint. Put the checkpoint's own config.json there."
            )

    def add(self, name: str, *parts: SourcePart, transposed: bool = False, declared: str | None = None) -> None:
        """Add a tensor of each rank: the parts stacked, then transposed or not."""
        block = Block(parts)
        frame = (block.columns, block.rows) if transposed else (block.rows, block.columns)
        vector = len(parts[0].source.shape) == 1
        self.targets.append(Target(name, self.cast(declared), (block.rows,) if vector else frame, (block,), transposed))

    def add_stack(self, name: str, frames: Sequence[tuple[SourcePart, ...]], declared: str | None = None) -> None:
        """Add a 3-D tensor of each rank: one transposed frame after the other, as for experts."""
        rows, columns = Block(frames[0]).columns, Block(frames[0]).rows
        blocks = tuple(Block(parts, at_row=index * rows) for index, parts in enumerate(frames))
        self.targets.append(Target(name, self.cast(declared), (len(frames), rows, columns), blocks, transposed=True))

    def cast(self, declared: str | None) -> str:
        return declared if declared and self.flags.cast == "as-declared" else self.dtype
