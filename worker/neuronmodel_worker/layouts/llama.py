"""Llama: biases if config.json asks for them, vocabulary-parallel embeddings, norms folded into the weights."""

from neuronmodel_worker.failures import LayoutRefused
from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.dense import Traits, lay_out_dense
from neuronmodel_worker.layouts.model_config import ModelConfig
from neuronmodel_worker.layouts.sharding_flags import Flags


def refuse_llama_flags(flags: Flags) -> None:
    if flags.vocab_parallel and flags.local_ranks < flags.tp_degree:
        raise LayoutRefused(
            f"vocab_parallel needs all {flags.tp_degree} ranks (tp_degree) in one place, and local_ranks_size is "
            f"{flags.local_ranks}. Set start_rank_id to 0 and local_ranks_size to {flags.tp_degree}, or vocab_parallel "
            "to false."
        )


def lay_out_llama(builder: LayoutBuilder, config: ModelConfig) -> None:
    flags = builder.flags
    if flags.fused_qkv and config.attention_bias:
        raise LayoutRefused(
            "fused_qkv does not go with attention_bias in a Llama model, at any tensor parallel degree. "
            "Set fused_qkv to false."
        )
    traits = Traits(
        head_size=config.head_dim or config.divided_head_size,
        query_key_value_bias=bool(config.attention_bias),
        output_bias=bool(config.attention_bias),
    )
    lay_out_dense(builder, config, traits)
