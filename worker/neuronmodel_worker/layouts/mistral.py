"""Mistral: no biases in attention, heads divide the hidden size, queries, keys and values stay apart."""

from pydantic import PositiveInt

from neuronmodel_worker.layouts.dense import Traits, lay_out_dense, refuse_fused_qkv, refuse_other_head_size
from neuronmodel_worker.layouts.draft import Draft
from neuronmodel_worker.layouts.flags import Flags
from neuronmodel_worker.layouts.model_config import ModelConfig


class MistralConfig(ModelConfig):
    intermediate_size: PositiveInt = 14336
    num_key_value_heads: PositiveInt | None = 8


def refuse_mistral_flags(flags: Flags) -> None:
    refuse_fused_qkv(flags, "Mistral")


def lay_out_mistral(draft: Draft, config: ModelConfig) -> None:
    refuse_other_head_size(draft, config)
    lay_out_dense(draft, config, Traits(head_size=config.divided_head_size))
