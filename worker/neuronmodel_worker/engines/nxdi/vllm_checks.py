"""Checks that vLLM's Neuron plugin can use a graph, by its flags, before hours of compiling."""

from collections.abc import Mapping
from typing import Any, Final

from neuronmodel_worker.engines.nxdi.flag_checks import max_lengths
from neuronmodel_worker.engines.vllm_arguments import batch_size, sequence_length
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.derived import derived

# NxD Inference's own default.
PADDING_SIDE: Final = "right"

# Features that need arguments of vLLM's own, which are not supported here.
NOT_WITH_VLLM: Final = (
    "enable_fused_speculation", "enable_eagle_speculation", "speculation_length", "is_medusa", "lora_config",
    "chunked_prefill_config",
)  # fmt: skip

QUANTIZED_CACHE_FIELDS: Final = ("kv_cache_quant", "kv_quant_config")


def check_graph(flags: Mapping[str, Any]) -> None:
    """Raises FlagsRefused for NeuronConfig fields with which vLLM would not run, or would give wrong answers."""
    if refused := [name for name in NOT_WITH_VLLM if flags.get(name)]:
        raise FlagsRefused(
            f"{refused[0]} cannot be served by vLLM here: it needs arguments of vLLM's that a NeuronModel does not "
            "have. Remove it, or set spec.serving.server: OpenAI."
        )
    if quantized := [name for name in QUANTIZED_CACHE_FIELDS if flags.get(name)]:
        raise FlagsRefused(
            f"{quantized[0]} cannot be served by vLLM: NxD Inference saves how a cache is quantized in a form that it "
            "does not read back, and vLLM's plugin starts from what was saved, so it would never start. Remove it, or "
            "set spec.serving.server: OpenAI."
        )
    if batch_size(flags) > 1 and not flags.get("is_continuous_batching"):
        # Without it, NxD Inference writes every prompt's keys and values to the first places of the cache.
        raise FlagsRefused(
            f"vLLM reads prompts one at a time into a batch of {batch_size(flags)}, and this graph is not compiled for "
            "that: its answers would be wrong. Add is_continuous_batching: true and ctx_batch_size: 1 to "
            "spec.compile.extra, or set batchSize: 1."
        )
    if batch_size(flags) > 1 and flags.get("ctx_batch_size") != 1:
        raise FlagsRefused(
            f"vLLM reads prompts one at a time, and this graph reads {flags.get('ctx_batch_size', batch_size(flags))} "
            "at once. Add ctx_batch_size: 1 to spec.compile.extra."
        )
    if (side := flags.get("padding_side", PADDING_SIDE)) != PADDING_SIDE:
        raise FlagsRefused(f"vLLM pads prompts on the right, and padding_side is {side!r}. Remove it.")
    if derived(flags).get("output_logits") and flags.get("on_device_sampling_config") is not None:
        raise FlagsRefused(
            "vLLM finds no tokens beside the logits of a graph that samples and gives both. Remove output_logits, or "
            "onDeviceSampling."
        )
    asked = (flags.get("max_context_length") or sequence_length(flags), sequence_length(flags))
    if max_lengths(flags) != asked:
        raise FlagsRefused(
            f"vLLM would accept prompts of {asked[0]} and sequences of {asked[1]} tokens, and the largest buckets of "
            f"this graph hold {max_lengths(flags)[0]} and {max_lengths(flags)[1]}: its engine would end with the "
            "first longer one. Add buckets of those sizes, or lower maxContextLength and sequenceLength."
        )
    if uses_blocks(flags):
        _check_blocks(flags)


def _check_blocks(flags: Mapping[str, Any]) -> None:
    if not isinstance(flags.get("pa_block_size"), int) or not isinstance(flags.get("pa_num_blocks"), int):
        raise FlagsRefused("A cache in blocks needs pa_block_size and pa_num_blocks. Add them to spec.compile.extra.")
    a_sequence = -(-sequence_length(flags) // flags["pa_block_size"])
    needed = a_sequence * batch_size(flags) + 1
    if flags["pa_num_blocks"] < needed:
        raise FlagsRefused(
            f"pa_num_blocks is {flags['pa_num_blocks']}, and vLLM needs {needed}: {a_sequence} for each of "
            f"{batch_size(flags)} sequences, and one that stays empty. Raise it."
        )


def uses_blocks(flags: Mapping[str, Any]) -> bool:
    return bool(flags.get("is_block_kv_layout") or flags.get("is_prefix_caching"))
