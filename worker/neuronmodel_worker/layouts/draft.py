"""What a family's layout writes its tensors into: knows the checkpoint, the flags and the rules for types."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource
from neuronmodel_worker.failures import ConfigInvalid, LayoutRefused, TensorMissing, TensorShapeMismatch
from neuronmodel_worker.layouts.flags import DTYPES, Flags
from neuronmodel_worker.layouts.geometry import Block, Part, Shape, Target

# What can be cast; quantized and integer weights need scales that no layout here knows.
FLOATING = ("BF16", "F16", "F32", "F64")


class ModelConfig(BaseModel):
    """The fields of config.json that decide shapes, with the defaults that transformers gives every family."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    vocab_size: PositiveInt
    attention_bias: bool | None = False
    mlp_bias: bool | None = False
    tie_word_embeddings: bool | None = False
    dtype: str | None = None
    torch_dtype: str | None = None

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def divided_head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


def parse_config(checkpoint: Checkpoint, kind: type[AnyConfig]) -> AnyConfig:
    """Raises ConfigInvalid, which names the first field that is wrong."""
    try:
        return kind.model_validate(dict(checkpoint.config))
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigInvalid(
            f"config.json in {checkpoint.path} is wrong at {name}: {first['msg'].lower()}. Put the checkpoint's own "
            "config.json there."
        ) from error


def dtype_in_force(flags: Flags, config: ModelConfig) -> str:
    """NeuronConfig's type, else config.json's, else bfloat16."""
    named = config.dtype or config.torch_dtype or "bfloat16"
    if flags.dtype is None and named not in DTYPES:
        raise LayoutRefused(
            f"config.json gives the type {named}, and shards are made in {', '.join(DTYPES)}. Set torch_dtype."
        )
    return flags.dtype or DTYPES[named]


@dataclass
class Draft:
    """Collects targets. `dtype` is the type in force; `declared` in the methods is what the parameter was declared
    with where that is not the type in force, and counts with `cast_type: as-declared` alone."""

    checkpoint: Checkpoint
    flags: Flags
    dtype: str
    targets: list[Target] = field(default_factory=list)
    rank_tensors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def tensors(self) -> Mapping[str, TensorSource]:
        return self.checkpoint.tensors

    def take(self, name: str, shape: Shape) -> TensorSource:
        """The checkpoint's tensor of that name. Raises TensorMissing, TensorShapeMismatch, LayoutRefused."""
        source = self.tensors.get(name)
        if source is None:
            raise TensorMissing(name, self.checkpoint.path)
        if source.shape != shape:
            raise TensorShapeMismatch(name, source.shape, shape)
        if source.dtype not in FLOATING:
            raise LayoutRefused(
                f"The tensor {name} has the type {source.dtype}, and shards are made from {', '.join(FLOATING)} alone. "
                "Use a checkpoint that is not quantized."
            )
        return source

    def add(self, name: str, *parts: Part, transposed: bool = False, declared: str | None = None) -> None:
        """A tensor of each rank: the parts stacked, then transposed or not."""
        block = Block(parts)
        frame = (block.columns, block.rows) if transposed else (block.rows, block.columns)
        vector = len(parts[0].source.shape) == 1
        self.targets.append(Target(name, self.cast(declared), (block.rows,) if vector else frame, (block,), transposed))

    def add_stack(self, name: str, frames: Sequence[tuple[Part, ...]], declared: str | None = None) -> None:
        """A 3-D tensor of each rank: one transposed frame after the other (experts)."""
        rows, columns = Block(frames[0]).columns, Block(frames[0]).rows
        blocks = tuple(Block(parts, at_row=index * rows) for index, parts in enumerate(frames))
        self.targets.append(Target(name, self.cast(declared), (len(frames), rows, columns), blocks, transposed=True))

    def cast(self, declared: str | None) -> str:
        return declared if declared and self.flags.cast == "as-declared" else self.dtype
