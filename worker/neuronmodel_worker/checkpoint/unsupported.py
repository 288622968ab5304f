"""Refuses checkpoints that can be opened, but that no layout here and not NxD Inference makes shards from."""

from collections.abc import Mapping
from typing import Final

from neuronmodel_worker.checkpoint.checkpoint import Checkpoint
from neuronmodel_worker.checkpoint.quantization import LIBRARY_METHODS, Quantization, quantization_of
from neuronmodel_worker.failures import CheckpointQuantized, MultimodalModel
from neuronmodel_worker.io.untrusted_input import shown

TEXT_CONFIGS: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model_config")
"""Objects in which a multimodal model's config.json has the sizes of its language model."""
OTHER_MODALITIES: Final = ("vision_config", "audio_config", "vision_tower_config", "visual", "vision_model")
QUANTIZING_FIELDS: Final = ("quantized", "quantized_mlp_kernel_enabled", "activation_quantization_type")
"""The fields of NeuronConfig with which NxD Inference uses weights that it has quantized itself."""
NATIVE_REMEDY: Final = (
    " Or set spec.sharding.weights: Native: NxD Inference's own code for this model may read such weights."
)
SIZES: Final = ("hidden_size", "num_hidden_layers")


def refuse_unsupported(checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, has_layout: bool) -> None:
    """For layouts here; `has_layout` says whether there is one for the model's type. Raises CheckpointQuantized,
    MultimodalModel."""
    if found := _quantization(checkpoint, neuron_config, knows_names=has_layout):
        remedy = NATIVE_REMEDY if not has_layout and found.method in LIBRARY_METHODS else ""
        raise CheckpointQuantized(found.sentence(checkpoint.path) + remedy)
    _refuse_multimodal(checkpoint)


def refuse_quantized(checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, has_layout: bool) -> None:
    """For NxD Inference's own sharding, which may read weights of LIBRARY_METHODS for models without a layout here.

    Raises CheckpointQuantized.
    """
    found = _quantization(checkpoint, neuron_config, knows_names=has_layout)
    if found and (has_layout or found.method not in LIBRARY_METHODS):
        raise CheckpointQuantized(found.sentence(checkpoint.path))


def _quantization(
    checkpoint: Checkpoint, neuron_config: Mapping[str, object], *, knows_names: bool
) -> Quantization | None:
    """How the weights are quantized; None also where NeuronConfig asks for the model to be quantized. `knows_names`
    says whether the model's tensors are named as those of a family that has a layout here."""
    if any(neuron_config.get(name) for name in QUANTIZING_FIELDS):
        return None
    names = checkpoint.tensors.keys() if knows_names else ()
    return quantization_of(checkpoint.config, checkpoint.quantizer_files, names)


def _refuse_multimodal(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    inner = next((name for name in TEXT_CONFIGS if isinstance(config.get(name), dict) and config[name]), None)
    if inner is None:
        return
    has_sizes = all(config.get(name) is not None for name in SIZES)
    if has_sizes and not any(isinstance(config.get(name), dict) for name in OTHER_MODALITIES):
        return
    kind = config.get("model_type")
    of_type = f" of type {shown(kind)}" if isinstance(kind, str) and kind else ""
    raise MultimodalModel(
        f"config.json in {checkpoint.path} has the language model's sizes under {inner}: it is a multimodal "
        f"checkpoint{of_type}, and layouts here are of text models alone.",
        "Use a checkpoint of the language model by itself, with its own config.json",
    )
