"""Warnings of tensors of a checkpoint that no target is made from: NxD Inference drops them silently."""

import re
from collections.abc import Sequence
from typing import Final

from neuronmodel_worker.checkpoint.tensor_names import HEAD
from neuronmodel_worker.io.untrusted_input import listed
from neuronmodel_worker.layouts.builder import LayoutBuilder
from neuronmodel_worker.layouts.model_config import ModelConfig

WITHOUT_EFFECT: Final = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)|masked_bias|(self_)?attn\.bias"
    r"|position_ids|attention_mask|causal_mask)$"
)
"""Buffers that older versions of transformers saved with the weights, and that are computed when a model is loaded."""
ENDINGS: Final = ("inv_freq", "_cached", "bias", "position_ids", "_mask")
"""The endings of these names, as a quick first check."""
BIAS: Final = re.compile(r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.bias")
LAYER: Final = re.compile(r"layers\.(\d+)\.")


def warn_of_unused(builder: LayoutBuilder, config: ModelConfig) -> None:
    """Add the warnings to the builder, when all targets are in it."""
    unused = builder.checkpoint.tensors.keys() - builder.taken
    names = [name for name in unused if not (name.endswith(ENDINGS) and WITHOUT_EFFECT.search(name))]
    tied, layers, others, biases = False, False, list[str](), set[str]()
    for name in names:
        bare = name.removeprefix("model.")
        layer = LAYER.match(bare)
        if bare == HEAD and config.tie_word_embeddings:
            tied = True
        elif layer and _is_beyond(layer[1], config.num_hidden_layers):
            layers = True
        elif bare.endswith(".bias") and (bias := BIAS.fullmatch(bare)):
            biases.add(bias[1])
        else:
            others.append(name)
    if tied:
        builder.warnings.append(_tied_head_warning(builder))
    if others:
        builder.warnings.append(_unused_warning(builder, sorted(others)))
    if biases:
        builder.warnings.append(
            f"The biases of {', '.join(sorted(biases, key=_in_order))} are left out, as NxD Inference does for this "
            "model: it computes something else than its checkpoint."
        )
    if layers:
        builder.warnings.append(
            f"The checkpoint holds more than the {config.num_hidden_layers} layers that its config.json gives: those "
            "beyond are left out."
        )


def _is_beyond(layer: str, layers: int) -> bool:
    """Whether a layer's number is too great; it may have too many digits to be parsed."""
    return len(layer) > 9 or int(layer) >= layers


def _in_order(module: str) -> tuple[int, str]:
    order = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return order.index(module.rpartition(".")[2]), module


def _tied_head_warning(builder: LayoutBuilder) -> str:
    head, embeddings = builder.find(HEAD), builder.find("model.embed_tokens.weight")
    same = head and embeddings and head.shape == embeddings.shape
    todo = (
        "Set tie_word_embeddings to false if it differs from the embeddings."
        if same
        else "Its shape is not that of the embeddings: check that config.json belongs to these files."
    )
    return (
        f"lm_head.weight in {builder.checkpoint.path} is left out, as config.json says tie_word_embeddings: true; "
        f"transformers 5 would use it. {todo}"
    )


def _unused_warning(builder: LayoutBuilder, names: Sequence[str]) -> str:
    tensors, are = (f"{len(names):,} tensors", "are") if len(names) > 1 else ("a tensor", "is")
    return (
        f"The checkpoint in {builder.checkpoint.path} holds {tensors} that a model of this type does not have and that "
        f"{are} left out, as NxD Inference does: {listed(names)}. If that changes what the model computes, its answers "
        "will differ: check that config.json names the model's own type and switches (attention_bias, mlp_bias)."
    )
