"""Mixtral: heads divide the hidden size, no fused_qkv, experts were declared in float32."""

from pydantic import PositiveInt

from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Traits, refuse_fused_qkv, refuse_other_head_size
from neuronmodel_worker.layouts.model_config import ModelConfig
from neuronmodel_worker.layouts.moe import Experts, lay_out_moe
from neuronmodel_worker.layouts.sharding_flags import Flags


class MixtralConfig(ModelConfig):
    intermediate_size: PositiveInt = 14336
    num_key_value_heads: PositiveInt | None = 8
    num_local_experts: PositiveInt = 8


def refuse_mixtral_flags(flags: Flags) -> None:
    refuse_fused_qkv(flags, "Mixtral")


def lay_out_mixtral(builder: LayoutBuilder, config: MixtralConfig) -> None:
    refuse_other_head_size(builder, config)
    traits = Traits(head_size=config.divided_head_size, lm_head_declared="F32", attention_knows_rank=False)
    experts = Experts(
        config.num_local_experts,
        config.intermediate_size,
        "intermediate_size",
        "block_sparse_moe",
        "w1",
        "w3",
        "w2",
        declared="F32",
    )
    lay_out_moe(builder, config, traits, experts)
