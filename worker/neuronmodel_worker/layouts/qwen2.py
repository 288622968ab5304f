"""Qwen2: biases on query, key and value always; heads divide the hidden size; the head was declared in float32."""

from pydantic import PositiveInt

from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Traits, lay_out_dense, refuse_other_head_size
from neuronmodel_worker.layouts.model_config import ModelConfig


class Qwen2Config(ModelConfig):
    intermediate_size: PositiveInt = 22016
    num_key_value_heads: PositiveInt | None = 32
    vocab_size: PositiveInt = 151936


def lay_out_qwen2(builder: LayoutBuilder, config: ModelConfig) -> None:
    refuse_other_head_size(builder, config)
    traits = Traits(head_size=config.divided_head_size, query_key_value_bias=True, lm_head_declared="F32")
    lay_out_dense(builder, config, traits)
