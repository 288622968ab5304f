"""The fields of config.json that decide the shape of shards, with transformers' defaults for absent ones."""

import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import ConfigInvalid, LayoutRefused
from neuronmodel_worker.layouts.legacy_config import legacy_config_of
from neuronmodel_worker.layouts.sharding_flags import Flags
from neuronmodel_worker.neuron_config.values import DEFAULT_DTYPE, DTYPES


class ModelConfig(BaseModel):
    """The fields of config.json that decide shapes, with transformers' defaults for Llama; others have their own."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    UNUSED: ClassVar[frozenset[str]] = frozenset()
    """The sizes that do not matter in this family."""

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
        """Everything in config.json that decides which bytes of the checkpoint go where, with transformers' defaults;
        the type is not part of it."""
        given = self.model_dump(exclude={"dtype", "torch_dtype", *self.UNUSED})
        resolved = {
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_dim or self.divided_head_size,
            **{name: bool(given[name]) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")},
        }
        return {**given, **resolved}

    @property
    def assumed(self) -> Mapping[str, int]:
        """The sizes that config.json does not give, with transformers' defaults."""
        absent = type(self).model_fields.keys() - self.model_fields_set - self.UNUSED
        return {name: value for name in sorted(absent) if type(value := getattr(self, name)) is int}


AnyConfig = TypeVar("AnyConfig", bound=ModelConfig)


def parse_config(checkpoint: Checkpoint, kind: type[AnyConfig]) -> AnyConfig:
    """Read config.json, whichever release of transformers wrote it. Raises ConfigInvalid, which names the first field
    that is wrong, and LayoutRefused for what `layouts.legacy_config` refuses."""
    try:
        return kind.model_validate(dict(legacy_config_of(checkpoint)))
    except ValidationError as error:
        first: Any = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigInvalid(
            f"config.json in {checkpoint.path} gives {name} as {reprlib.repr(first['input'])}, and it "
            f"{first['msg'].removeprefix('Input ')}. Put the checkpoint's own config.json there."
        ) from error


def resolve_dtype(flags: Flags, config: ModelConfig, yields: bool = False) -> str:
    """NeuronConfig's type, or config.json's, or bfloat16. With `yields` config.json's comes first, as in
    `load_pretrained_config` of the library's hf_adapter."""
    given = config.dtype or config.torch_dtype
    named = given or DEFAULT_DTYPE
    asked = None if yields and given else flags.dtype
    if asked is None and named not in DTYPES:
        raise LayoutRefused(
            f"config.json gives the type {named[:40]!r}, and shards are made in {', '.join(DTYPES)}. Set torch_dtype "
            "to one of them."
        )
    return asked or DTYPES[named]
