"""What opens as a checkpoint and is none that a layout here, or NxD Inference, makes shards from."""

from collections.abc import Mapping
from typing import Final

from neuronmodel_worker.checkpoint.folder import Checkpoint
from neuronmodel_worker.checkpoint.quantized import OF_THE_LIBRARY, UNNAMED, Quantization, quantization_of
from neuronmodel_worker.checkpoint.untrusted import shown
from neuronmodel_worker.failures import CheckpointQuantized, MultimodalModel

OF_THE_LANGUAGE: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model_config")
"""Objects in which a multimodal model's config.json has the sizes of its language model."""
OF_OTHER_SENSES: Final = ("vision_config", "audio_config", "vision_tower_config", "visual", "vision_model")
ASKED_FOR: Final = ("quantized", "quantized_mlp_kernel_enabled", "activation_quantization_type")
"""Fields of NeuronConfig with which NxD Inference takes weights that it quantized itself."""
SIZES: Final = ("hidden_size", "num_hidden_layers")


def refuse_what_is_no_text_model(checkpoint: Checkpoint, neuron_config: Mapping[str, object]) -> None:
    """For layouts of ours. Raises CheckpointQuantized, MultimodalModel."""
    refuse_quantized(checkpoint, neuron_config)
    _refuse_multimodal(checkpoint)


def refuse_quantized(
    checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, library_reads_some: bool = False
) -> None:
    """Not where NeuronConfig says that the model is to be quantized.
    `library_reads_some`: whether its code for this model may read weights of OF_THE_LIBRARY itself, and names its
    tensors in a way that is not known here.

    Raises CheckpointQuantized.
    """
    if any(neuron_config.get(name) for name in ASKED_FOR):
        return
    names = () if library_reads_some else checkpoint.tensors.keys()
    found = quantization_of(checkpoint.config, checkpoint.beside, names)
    if found and not (library_reads_some and found.method in OF_THE_LIBRARY):
        raise CheckpointQuantized(_sentence(checkpoint, found))


def _sentence(checkpoint: Checkpoint, found: Quantization) -> str:
    how = f"by {found.name}" if found.method == UNNAMED else f"with {found.name}"
    undone = "" if found.where.startswith("its tensor") else f" If its weights no longer are, remove {found.where}."
    return (
        f"The checkpoint in {checkpoint.path} is quantized {how}, as {found.where} says, and shards are made from "
        "weights in bfloat16, float16, float32 or float64. Use the checkpoint that it was made from, or dequantize it "
        f"and save it in one of these types.{undone}"
    )


def _refuse_multimodal(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    inner = next((name for name in OF_THE_LANGUAGE if isinstance(config.get(name), dict) and config[name]), None)
    if inner is None:
        return
    has_sizes = all(config.get(name) is not None for name in SIZES)
    if has_sizes and not any(isinstance(config.get(name), dict) for name in OF_OTHER_SENSES):
        return
    kind = config.get("model_type")
    of_type = f" of type {shown(kind)}" if isinstance(kind, str) and kind else ""
    raise MultimodalModel(
        f"config.json in {checkpoint.path} has the language model's sizes under {inner}: it is a multimodal "
        f"checkpoint{of_type}, and layouts here are of text models alone.",
        "Use a checkpoint of the language model by itself, with its own config.json",
    )
