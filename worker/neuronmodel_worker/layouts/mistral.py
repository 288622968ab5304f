"""Mistral: no biases in attention, heads divide the hidden size, no fused_qkv."""

from pydantic import PositiveInt

from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Traits, lay_out_dense, refuse_fused_qkv, refuse_other_head_size
from neuronmodel_worker.layouts.model_config import ModelConfig
from neuronmodel_worker.layouts.sharding_flags import Flags


class MistralConfig(ModelConfig):
    intermediate_size: PositiveInt = 14336
    num_key_value_heads: PositiveInt | None = 8


def refuse_mistral_flags(flags: Flags) -> None:
    refuse_fused_qkv(flags, "Mistral")


def lay_out_mistral(builder: LayoutBuilder, config: ModelConfig) -> None:
    refuse_other_head_size(builder, config)
    lay_out_dense(builder, config, Traits(head_size=config.divided_head_size))
