"""Qwen3-MoE: norms on queries and keys, the size of a head from config.json, a size of its own for experts."""

from typing import ClassVar

from pydantic import PositiveInt

from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Traits
from neuronmodel_worker.layouts.model_config import ModelConfig
from neuronmodel_worker.layouts.moe import Experts, lay_out_moe
from neuronmodel_worker.layouts.qwen3 import qwen3_head_size


class Qwen3MoeConfig(ModelConfig):
    UNUSED: ClassVar[frozenset[str]] = frozenset({"intermediate_size", "decoder_sparse_step"})

    hidden_size: PositiveInt = 2048
    intermediate_size: PositiveInt = 6144
    num_hidden_layers: PositiveInt = 24
    num_key_value_heads: PositiveInt = 4
    vocab_size: PositiveInt = 151936
    num_experts: PositiveInt = 128
    moe_intermediate_size: PositiveInt = 768
    decoder_sparse_step: PositiveInt = 1
    mlp_only_layers: list[int] | None = None

    @property
    def has_dense_layers(self) -> bool:
        """Whether some layers are dense; `mlp_only_layers` may hold numbers beyond the last layer."""
        named = any(0 <= each < self.num_hidden_layers for each in self.mlp_only_layers or ())
        return named or self.decoder_sparse_step != 1


def lay_out_qwen3_moe(builder: LayoutBuilder, config: Qwen3MoeConfig) -> None:
    if "head_dim" not in config.model_fields_set:
        raise LayoutRefused(
            "A Qwen3-MoE model needs head_dim in its config.json, and this one gives none. Add it, as the checkpoint's "
            "own config.json has it."
        )
    if config.has_dense_layers:
        raise LayoutRefused(
            "There is no layout for a Qwen3-MoE model with dense layers between (mlp_only_layers or "
            "decoder_sparse_step). Use a checkpoint whose layers are all sparse."
        )
    traits = Traits(head_size=qwen3_head_size(builder, config), query_key_norms=True, lm_head_declared="F32")
    experts = Experts(
        config.num_experts,
        config.moe_intermediate_size,
        "moe_intermediate_size",
        "mlp",
        "gate_proj",
        "up_proj",
        "down_proj",
        know_rank=True,
    )
    lay_out_moe(builder, config, traits, experts)
