"""Qwen3: norms on queries and keys, no biases in attention, heads of 128 by default."""

from pydantic import PositiveInt

from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Traits, lay_out_dense
from neuronmodel_worker.layouts.model_config import ModelConfig


class Qwen3Config(ModelConfig):
    intermediate_size: PositiveInt = 22016
    num_key_value_heads: PositiveInt | None = 32
    head_dim: PositiveInt | None = 128
    vocab_size: PositiveInt = 151936


def qwen3_head_size(builder: LayoutBuilder, config: ModelConfig, absent: int | None = None) -> int:
    """The size of a head: `head_dim`. Where that is null, heads divide the hidden size, unless the checkpoint's have
    the size `absent`, transformers' default for an absent field."""
    if config.head_dim is not None:
        return config.head_dim
    builder.warnings.append(
        "config.json gives head_dim as null: shards are made as without it, and NxD Inference may not compile the "
        "model. Put the checkpoint's own config.json there, or the size of a head."
    )
    query = builder.find("model.layers.0.self_attn.q_proj.weight")
    if absent and query and query.shape[:1] == (config.num_attention_heads * absent,):
        return absent
    return config.divided_head_size


def lay_out_qwen3(builder: LayoutBuilder, config: Qwen3Config) -> None:
    traits = Traits(head_size=qwen3_head_size(builder, config, absent=128), query_key_norms=True)
    lay_out_dense(builder, config, traits)
