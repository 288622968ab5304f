"""What opens as a checkpoint and is none that a layout here, or NxD Inference, makes shards from."""

from collections.abc import Mapping
from typing import Final

from neuronmodel_worker.checkpoint.folder import Checkpoint
from neuronmodel_worker.checkpoint.quantization import OF_THE_LIBRARY, Quantization, quantization_of
from neuronmodel_worker.checkpoint.untrusted_input import shown
from neuronmodel_worker.failures import CheckpointQuantized, MultimodalModel

OF_THE_LANGUAGE: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model_config")
"""Objects in which a multimodal model's config.json has the sizes of its language model."""
OF_OTHER_SENSES: Final = ("vision_config", "audio_config", "vision_tower_config", "visual", "vision_model")
ASKED_FOR: Final = ("quantized", "quantized_mlp_kernel_enabled", "activation_quantization_type")
"""Fields of NeuronConfig with which NxD Inference takes weights that it quantized itself."""
NATIVELY: Final = (
    " Or set spec.sharding.weights: Native: NxD Inference's own code for this model may read such weights."
)
SIZES: Final = ("hidden_size", "num_hidden_layers")


def refuse_unsupported(checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, has_layout: bool) -> None:
    """For layouts of ours; `has_layout`: whether there is one for its type. Raises CheckpointQuantized,
    MultimodalModel."""
    if found := _quantization(checkpoint, neuron_config, knows_names=has_layout):
        natively = NATIVELY if not has_layout and found.method in OF_THE_LIBRARY else ""
        raise CheckpointQuantized(found.sentence(checkpoint.path) + natively)
    _refuse_multimodal(checkpoint)


def refuse_quantized(checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, has_layout: bool) -> None:
    """For NxD Inference's own code, which for models without a layout here may read weights of OF_THE_LIBRARY itself.

    Raises CheckpointQuantized.
    """
    found = _quantization(checkpoint, neuron_config, knows_names=has_layout)
    if found and (has_layout or found.method not in OF_THE_LIBRARY):
        raise CheckpointQuantized(found.sentence(checkpoint.path))


def _quantization(
    checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, knows_names: bool
) -> Quantization | None:
    """None, too, where NeuronConfig says that the model is to be quantized. `knows_names`: whether the model's tensors
    are named as those of a family that has a layout here."""
    if any(neuron_config.get(name) for name in ASKED_FOR):
        return None
    names = checkpoint.tensors.keys() if knows_names else ()
    return quantization_of(checkpoint.config, checkpoint.beside, names)


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
