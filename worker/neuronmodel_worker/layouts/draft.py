"""What a family's layout writes its tensors into: knows the checkpoint, the flags and the rules for types."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource
from neuronmodel_worker.failures import ConfigInvalid, LayoutRefused, TensorMissing, TensorShapeMismatch
from neuronmodel_worker.layouts.flags import Flags
from neuronmodel_worker.layouts.geometry import Block, Part, Shape, Target
from neuronmodel_worker.layouts.heads import CacheShape
from neuronmodel_worker.neuron_config.values import DEFAULT_DTYPE, DTYPES

# What can be cast; quantized and integer weights need scales that no layout here knows.
FLOATING = ("BF16", "F16", "F32", "F64")


# The sizes that decide which tensors there are, and not only their shapes.
COUNTS = ("num_hidden_layers", "num_experts", "num_local_experts")


class ModelConfig(BaseModel):
    """The fields of config.json that decide shapes, with transformers' defaults for Llama; others have their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    UNUSED: ClassVar[frozenset[str]] = frozenset()
    """Sizes that do not matter in this family."""

    hidden_size: PositiveInt = 4096
    intermediate_size: PositiveInt = 11008
    num_hidden_layers: PositiveInt = 32
    num_attention_heads: PositiveInt = 32
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    vocab_size: PositiveInt = 32000
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

    @property
    def sizes(self) -> Mapping[str, object]:
        """What config.json says that decides which bytes of the checkpoint go where, given or taken as transformers
        takes it; the type in force is told by itself."""
        said = self.model_dump(exclude={"dtype", "torch_dtype", *self.UNUSED})
        resolved = {
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_dim or self.divided_head_size,
            **{name: bool(said[name]) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")},
        }
        return {**said, **resolved}

    @property
    def assumed(self) -> Mapping[str, int]:
        """The sizes that config.json does not give, as transformers takes them."""
        absent = type(self).model_fields.keys() - self.model_fields_set - self.UNUSED
        return {name: value for name in sorted(absent) if type(value := getattr(self, name)) is int}


AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


def parse_config(checkpoint: Checkpoint, kind: type[AnyConfig]) -> AnyConfig:
    """Raises ConfigInvalid, which names the first field that is wrong."""
    try:
        return kind.model_validate(dict(checkpoint.config))
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigInvalid(
            f"config.json in {checkpoint.path} gives {name} as {reprlib.repr(first['input'])}, and it "
            f"{first['msg'].removeprefix('Input ')}. Put the checkpoint's own config.json there."
        ) from error


def dtype_in_force(flags: Flags, config: ModelConfig, yields: bool = False) -> str:
    """NeuronConfig's type, else config.json's, else bfloat16. Where the first `yields`, config.json's comes first, as
    in `load_pretrained_config` of the library's hf_adapter."""
    given = config.dtype or config.torch_dtype
    named = given or DEFAULT_DTYPE
    asked = None if yields and given else flags.dtype
    if asked is None and named not in DTYPES:
        raise LayoutRefused(
            f"config.json gives the type {named[:40]!r}, and shards are made in {', '.join(DTYPES)}. Set torch_dtype "
            "to one of them."
        )
    return asked or DTYPES[named]


@dataclass
class Draft:
    """Collects targets. `dtype` is the type in force; `declared` in the methods is what the parameter was declared
    with where that is not the type in force, and counts with `cast_type: as-declared` alone."""

    checkpoint: Checkpoint
    flags: Flags
    dtype: str
    assumed: Mapping[str, int] = field(default_factory=dict)
    """Sizes that config.json does not give."""
    sizes: Mapping[str, object] = field(default_factory=dict)
    """All that it gives or leaves to transformers."""
    targets: list[Target] = field(default_factory=list)
    rank_tensors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cache: CacheShape | None = None

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
        sizes were assumed, LayoutRefused."""
        source = self.find(name)
        if source is None or source.shape != shape:
            self._refuse_what_was_assumed(name, source, shape)
            raise (
                TensorShapeMismatch(name, source.shape, shape) if source else TensorMissing(name, self.checkpoint.path)
            )
        if source.dtype not in FLOATING:
            raise LayoutRefused(
                f"The tensor {name} has the type {source.dtype}, and shards are made from {', '.join(FLOATING)} alone. "
                "Use a checkpoint that is not quantized."
            )
        return source

    def _refuse_what_was_assumed(self, name: str, source: TensorSource | None, shape: Shape) -> None:
        assumed = self.assumed if source else {k: v for k, v in self.assumed.items() if k in COUNTS}
        if assumed:
            found = f"has shape {list(source.shape)}" if source else "is missing"
            raise ConfigInvalid(
                f"config.json in {self.checkpoint.path} gives no {' and no '.join(assumed)}; with transformers' "
                f"defaults ({', '.join(map(str, assumed.values()))}) the model has a tensor {name} of shape "
                f"{list(shape)}, which {found} in the checkpoint. Put the checkpoint's own config.json there."
            )

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
