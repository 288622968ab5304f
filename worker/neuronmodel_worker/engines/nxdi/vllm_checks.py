"""Checks that vLLM's Neuron plugin can use a graph, by its flags, before hours of compiling."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuronmodel_worker.engines.nxdi.flag_checks import max_lengths
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.derived import derived
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH

# NxD Inference's own default.
PADDING_SIDE: Final = "right"

# Features that need arguments of vLLM's own, which are not supported here.
NOT_WITH_VLLM: Final = (
    "enable_fused_speculation", "enable_eagle_speculation", "speculation_length", "is_medusa", "lora_config",
    "chunked_prefill_config",
)  # fmt: skip

OF_THE_WORKER: Final = "nothing: the worker itself answers on the port and forwards to vLLM"
OF_THE_SOURCE: Final = "spec.model.source"
ONE_SERVER: Final = "nothing: a pod runs one vLLM on its own devices. Raise spec.serving.replicas"
OWN_ARGUMENTS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("host", "port", "uds", "root-path", "headless", "api-server-count", "config"), OF_THE_WORKER),
    **dict.fromkeys(("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "enable-ssl-refresh"), OF_THE_WORKER),
    "api-key": "spec.serving.apiKeySecretRef",
    **dict.fromkeys(("model", "revision", "code-revision", "hf-token", "download-dir", "load-format"), OF_THE_SOURCE),
    "served-model-name": "spec.model.servedName",
    **dict.fromkeys(("tp", "tensor-parallel-size"), "spec.parallelism.tensorParallelDegree"),
    **dict.fromkeys(("pp", "pipeline-parallel-size", "dp", "data-parallel-size", "nnodes", "node-rank"), ONE_SERVER),
    "distributed-executor-backend": ONE_SERVER,
    "max-model-len": "spec.compile.sequenceLength",
    "max-num-seqs": "spec.compile.batchSize",
    "dtype": "spec.compile.torchDtype",
    "enable-prefix-caching": "is_prefix_caching in spec.compile.extra",
    "block-size": "pa_block_size in spec.compile.extra",
    "num-gpu-blocks-override": "pa_num_blocks in spec.compile.extra",
    "additional-config": "spec.compile.extra",
}
"""Arguments of vLLM that follow from the spec, or would part it from the worker, and what to set instead."""
ARGUMENT: Final = re.compile(r"(?P<dashes>--?)(?:no[-_])?(?P<name>[a-z][\w-]*)")
"""What vLLM takes for a flag: it reads _ as -, and what follows = or a dot is no part of the name."""

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


def check_extra_arguments(arguments: Sequence[str]) -> None:
    """Raises FlagsRefused for the first further argument of vLLM that clashes with what is set for it. An abbreviation
    of such a name counts as the name: some parsers take it."""
    if arguments and not arguments[0].startswith("-"):
        raise FlagsRefused(
            f"spec.serving.extraArgs begins with {arguments[0][:60]!r}, which is no flag. Write a flag before its "
            "value, each as an item of its own."
        )
    for argument in arguments:
        if (found := ARGUMENT.match(argument)) is None:
            continue  # a value
        name = found["name"].replace("_", "-")
        may_be_short = found["dashes"] == "--" and len(name) > 1
        for own, instead in OWN_ARGUMENTS.items():
            if own == name or (may_be_short and own.startswith(name)):
                raise FlagsRefused(
                    f"spec.serving.extraArgs has {found[0][:60]}, and --{own} is set already. Remove it; what to set "
                    f"instead is {instead}."
                )


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


def batch_size(flags: Mapping[str, Any]) -> int:
    return int(flags.get("batch_size", 1))


def sequence_length(flags: Mapping[str, Any]) -> int:
    return int(flags.get("seq_len", DEFAULT_SEQUENCE_LENGTH))


def uses_blocks(flags: Mapping[str, Any]) -> bool:
    return bool(flags.get("is_block_kv_layout") or flags.get("is_prefix_caching"))
