"""Qwen3: norms on queries and keys, no biases in attention, heads of 128 unless said otherwise."""

from pydantic import PositiveInt

from neuronmodel_worker.layouts.dense import Traits, lay_out_dense
from neuronmodel_worker.layouts.draft import Draft, ModelConfig


class Qwen3Config(ModelConfig):
    intermediate_size: PositiveInt = 22016
    num_key_value_heads: PositiveInt | None = 32
    head_dim: PositiveInt = 128
    vocab_size: PositiveInt = 151936


def lay_out_qwen3(draft: Draft, config: Qwen3Config) -> None:
    traits = Traits(head_size=config.head_dim, query_key_norms=True)
    lay_out_dense(draft, config, traits)
