"""The CPU engine where vLLM serves: the same artifacts, and models that vLLM can split as they are split here."""

from collections.abc import Mapping, Sequence
from typing import Final

from neuronmodel_worker.engines.cpu import CpuEngine, streamed
from neuronmodel_worker.engines.llama_shape import LlamaConfig, llama_shape
from neuronmodel_worker.engines.vllm_arguments import check_extra_arguments
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.layouts.model_config import parse_config
from neuronmodel_worker.layouts.sharding_flags import Flags
from neuronmodel_worker.plan.streamed import ModelPlan

ELSE: Final = "or set spec.serving.server: OpenAI"
HEAD_SIZES: Final = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Of vLLM's attention on processors, in every version that this was tested with."""


class CpuVllmEngine(CpuEngine):
    """Refuses what vLLM cannot serve, before anything is built."""

    def __init__(self, extra_arguments: Sequence[str] = ()) -> None:
        super().__init__()
        self._extra_arguments = extra_arguments

    def graph_inputs(self, plan: ModelPlan, neuron_config: Mapping[str, object]) -> dict[str, object]:
        shape, config = llama_shape(streamed(plan), neuron_config), parse_config(plan.checkpoint, LlamaConfig)
        check_flags_of_layout(streamed(plan).layout.flags)
        check_split(config, shape.degree, shape.head_size)
        check_length(config, shape.sequence_length)
        check_extra_arguments(self._extra_arguments)
        return shape.inputs()


def check_flags_of_layout(flags: Flags) -> None:
    """Raises FlagsRefused for shards whose weights contain the norms, which vLLM would apply again."""
    if flags.skip_gamma_qkv or flags.skip_gamma_mlp:
        raise FlagsRefused(
            "fused_rmsnorm_skip_gamma multiplies the norms into the weights, and vLLM on processors applies them "
            f"itself. Remove it from spec.compile.extra, {ELSE}."
        )


def check_split(config: LlamaConfig, degree: int, head_size: int) -> None:
    """Raises FlagsRefused for sizes that vLLM does not divide: it pads no heads, and no MLP.
    Key/value heads that fit a layout are split or repeated evenly by both."""
    if head_size not in HEAD_SIZES:
        raise FlagsRefused(
            f"The model's heads have {head_size} elements, and vLLM's attention on processors knows "
            f"{', '.join(map(str, HEAD_SIZES))}. Use another checkpoint, {ELSE}."
        )
    for size, name in ((config.num_attention_heads, "attention heads"), (config.intermediate_size, "rows of the MLP")):
        if size % degree:
            raise FlagsRefused(
                f"vLLM gives every rank as many {name}, and {size} are not divisible by {degree}. Set "
                f"spec.parallelism.tensorParallelDegree to a number that divides {size}, {ELSE}."
            )


def check_length(config: LlamaConfig, sequence_length: int) -> None:
    """Raises FlagsRefused for sequences beyond those that the model was made for, as vLLM would at every start. What
    scaled positions reach, vLLM says itself."""
    if not config.rope_scaling and sequence_length > config.max_position_embeddings:
        raise FlagsRefused(
            f"spec.compile.sequenceLength is {sequence_length}, and config.json has max_position_embeddings "
            f"{config.max_position_embeddings}, beyond which vLLM does not start. Lower it, {ELSE}."
        )
