"""Fields of NeuronConfig that cannot go together, and an environment that disagrees with them.

Where the library refuses a combination itself, it does so with an AssertionError without a name; where it silently
does something else than what was asked for, it is refused here alone.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from neuronmodel_api.config import Server
from neuronmodel_worker.engines.nxdi.failures import FlagsRefused
from neuronmodel_worker.engines.nxdi.flags import shown
from neuronmodel_worker.layouts.flags import DEFAULT_SEQUENCE_LENGTH

# A field that is on, and those of which it needs one that is on or set.
NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "quantized": (("quantized_checkpoints_path",),),
    "is_full_model_shuffled": (("is_mxfp4_compute",),),
    "is_medusa": (("medusa_speculation_length",), ("num_medusa_heads",)),
    "medusa_tree": (("is_medusa",),),
    "medusa_speculation_length": (("is_medusa",),),
    "num_medusa_heads": (("is_medusa",),),
    "chunked_prefill_config": (("is_block_kv_layout",),),
    "qkv_cte_nki_kernel_fuse_rope": (("qkv_kernel_enabled",), ("qkv_nki_kernel_enabled",)),
    "attn_block_tkg_nki_kernel_enabled": (("qkv_kernel_enabled", "qkv_nki_kernel_enabled"),),
    "attn_block_tkg_nki_kernel_cache_update": (("attn_block_tkg_nki_kernel_enabled",),),
    "attn_block_tkg_nki_kernel_cascaded_attention": (("attn_block_tkg_nki_kernel_enabled",),),
    "attn_block_cte_nki_kernel_enabled": (
        ("qkv_kernel_enabled",),
        ("qkv_nki_kernel_enabled",),
        ("attn_kernel_enabled",),
        ("out_proj_kernel_enabled",),
    ),
    "rmsnorm_quantize_kernel_enabled": (("quantized_mlp_kernel_enabled",),),
    "tensor_capture_config": (("on_device_sampling_config",),),
    # The next step takes its token from the device, before anybody has seen it.
    "async_mode": (("on_device_sampling_config",),),
    "context_encoding_buckets": (("enable_bucketing",),),
    "token_generation_buckets": (("enable_bucketing",),),
}
EXCLUDES: tuple[tuple[str, str], ...] = (
    ("is_medusa", "async_mode"),
    ("quantized_mlp_kernel_enabled", "activation_quantization_type"),
    ("mlp_kernel_enabled", "activation_quantization_type"),
    ("k_cache_transposed", "flash_decoding_enabled"),
    ("k_cache_transposed", "chunked_prefill_config"),
    ("k_cache_transposed", "is_block_kv_layout"),
    ("attn_tkg_nki_kernel_enabled", "attn_tkg_builtin_kernel_enabled"),
    ("attn_tkg_nki_kernel_enabled", "attn_block_tkg_nki_kernel_enabled"),
    ("attn_tkg_builtin_kernel_enabled", "attn_block_tkg_nki_kernel_enabled"),
    *(
        (kernel, feature)
        for kernel in (
            "attn_tkg_nki_kernel_enabled",
            "attn_tkg_builtin_kernel_enabled",
            "attn_block_tkg_nki_kernel_enabled",
        )
        for feature in ("flash_decoding_enabled", "chunked_prefill_config")
    ),
)

# Their partner is a second checkpoint, the draft, which no field of NeuronConfig names.
OF_DRAFTS = (
    "enable_fused_speculation",
    "enable_eagle_speculation",
    "speculation_length",
    "is_eagle3",
    "is_eagle_draft",
    "enable_eagle_draft_input_norm",
    "token_tree_config",
    "draft_model_modules_to_not_convert",
)
# Those of which some are said to be left as they are, where attention is computed by kernels.
QUANTIZED = ("quantized", "quantized_mlp_kernel_enabled", "activation_quantization_type")
QKV_KERNELS = ("qkv_kernel_enabled", "qkv_nki_kernel_enabled")
# What vLLM feeds and the library's own generation does not.
OF_VLLM = ("is_block_kv_layout", "is_prefix_caching", "chunked_prefill_config", "is_medusa")


def check_together(fields: Mapping[str, Any], server: Server) -> None:
    """Raises FlagsRefused for the first of them."""
    for sentence in _contradictions(fields, server):
        raise FlagsRefused(sentence)


def check_environment(environment: Mapping[str, str], fields: Mapping[str, Any]) -> None:
    """Raises FlagsRefused: the library would go on, with other settings than those that were asked for."""
    if "NXD_LAYOUT_TRANSFORMATION_OPTIONS" in environment:
        raise FlagsRefused(
            "NXD_LAYOUT_TRANSFORMATION_OPTIONS is set in the environment: with it the shards are rewritten in the "
            "compiler's own layout, which is not that of the sealed ones. Remove it from spec.worker.env."
        )
    asked = logical_cores(fields)
    for name in ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE"):
        given = environment.get(name)
        if asked is not None and given is not None and given.strip() != str(asked):
            raise FlagsRefused(
                f"{name}={given[:20]} in the environment disagrees with logical_nc_config={asked}, and the library "
                "would follow the environment. Remove it from spec.worker.env, or set "
                "spec.parallelism.logicalNeuronCoreConfig to the same."
            )


def logical_cores(fields: Mapping[str, Any]) -> int | None:
    """Physical cores that make a logical one; None: the platform's own."""
    found = fields.get("logical_nc_config") or fields.get("logical_neuron_cores")
    return int(found) if found else None


def world_size(fields: Mapping[str, Any]) -> int:
    """Ranks of the whole model."""
    return int(fields.get("tp_degree") or 1) * int(fields.get("pp_degree") or 1) * int(fields.get("ep_degree") or 1)


def local_ranks(fields: Mapping[str, Any]) -> range:
    """The ranks of this pod, by their numbers among all."""
    start = int(fields.get("start_rank_id") or 0)
    return range(start, start + int(fields.get("local_ranks_size") or world_size(fields)))


def longest(fields: Mapping[str, Any]) -> tuple[int, int]:
    """A prompt and a whole sequence, in tokens: the library computes neither beyond the largest of its buckets."""
    length = fields.get("seq_len") or DEFAULT_SEQUENCE_LENGTH
    sequence = min(fields.get("max_length") or length, *_largest(fields, "token_generation_buckets"))
    prompt = min(fields.get("max_context_length") or length, sequence, *_largest(fields, "context_encoding_buckets"))
    return int(prompt), int(sequence)


def _largest(fields: Mapping[str, Any], buckets: str) -> list[float]:
    """None is no limit."""
    return [max(fields.get(buckets) or [math.inf])]


def _contradictions(fields: Mapping[str, Any], server: Server) -> Iterator[str]:
    yield from _of_sizes(fields)
    yield from _of_ranks(fields)
    yield from _of_buckets(fields)
    yield from _of_batches(fields)
    for name, needs in NEEDS.items():
        for partners in needs if _is_on(fields, name) else ():
            if not any(_is_on(fields, each) for each in partners):
                yield f"{_shown(fields, name)} needs {' or '.join(partners)} as well. Set it, or remove {name}."
    for one, other in EXCLUDES:
        if _is_on(fields, one) and _is_on(fields, other):
            yield f"{_shown(fields, one)} and {_shown(fields, other)} do not go together. Remove one of them."
    yield from _of_parallelism(fields)
    yield from _of_types(fields)
    for name in OF_DRAFTS:
        if _is_on(fields, name):
            yield (
                f"{_shown(fields, name)} needs a draft model, and a NeuronModel names one checkpoint alone. Remove it."
            )
    for name in OF_VLLM if server is Server.OPENAI else ():
        if _is_on(fields, name):
            yield (
                f"{_shown(fields, name)} is for a server that places sequences in the cache by itself. Set "
                "spec.serving.server: VLLM, or remove it."
            )
    yield from _of_blocks(fields)
    if fields.get("padding_side") == "left":
        yield (
            "padding_side='left' gives wrong answers: NxD Inference's own generation then forgets how long a sequence "
            "is as soon as its padding is used up. Remove it."
        )
    if _is_on(fields, "on_cpu"):
        yield "on_cpu=True computes on processors. Remove it, or use engine: CPU."


def _of_sizes(fields: Mapping[str, Any]) -> Iterator[str]:
    sequence = fields.get("seq_len") or DEFAULT_SEQUENCE_LENGTH
    longest = fields.get("max_length") or sequence
    context = fields.get("max_context_length") or sequence
    if longest > sequence:
        yield f"{_shown(fields, 'max_length')} is more than seq_len={sequence}. Raise seq_len, or lower max_length."
    if context > longest:
        limit = "max_length" if longest < sequence else "seq_len"
        yield (
            f"max_context_length={context} is more than {limit}={longest}: a prompt is a part of its sequence. Lower "
            f"max_context_length, or raise {limit}."
        )


def _of_ranks(fields: Mapping[str, Any]) -> Iterator[str]:
    size, given = world_size(fields), fields.get("world_size")
    if given is not None and given != size:
        yield (
            f"world_size={given} contradicts the degrees, which make {size} ranks (tp_degree × pp_degree × ep_degree). "
            "Remove world_size."
        )
    ranks = local_ranks(fields)
    if ranks.stop > size:
        yield (
            f"start_rank_id={ranks.start} and local_ranks_size={len(ranks)} reach rank {ranks.stop - 1}, and there are "
            f"ranks 0 to {size - 1}. Lower one of them."
        )
    old, new = fields.get("logical_neuron_cores"), fields.get("logical_nc_config")
    if old is not None and new is not None and old != new:
        yield f"logical_neuron_cores={old} is the older name of logical_nc_config={new}. Remove it."


def _of_buckets(fields: Mapping[str, Any]) -> Iterator[str]:
    sequence = fields.get("seq_len") or DEFAULT_SEQUENCE_LENGTH
    limits = {
        "context_encoding_buckets": ("max_context_length", fields.get("max_context_length") or sequence),
        "token_generation_buckets": ("max_length", fields.get("max_length") or sequence),
    }
    for name, (of, limit) in limits.items():
        buckets = fields.get(name) or []
        if buckets and max(buckets) > limit:
            yield f"{_shown(fields, name)} has one of {max(buckets)}, more than {of}={limit}. Remove it."


def _of_batches(fields: Mapping[str, Any]) -> Iterator[str]:
    """Prompts are written to the cache one at a time, each to its own line, or all to the first lines."""
    batch, continuous = fields.get("batch_size") or 1, _is_on(fields, "is_continuous_batching")
    for name in ("tkg_batch_size", *(("max_batch_size",) if continuous else ())):
        if (fields.get(name) or batch) != batch:
            yield (
                f"{_shown(fields, name)} is not batch_size={batch}: what the library generates would be padded to "
                "another size than the graph's. Remove it, or set batch_size to the same."
            )
    at_once = fields.get("ctx_batch_size") or batch
    if continuous and at_once != 1:
        yield (
            f"is_continuous_batching=True reads prompts one at a time, and this graph reads {at_once} at once: the "
            "library does not compile it. Set ctx_batch_size=1, or remove is_continuous_batching."
        )
    if not continuous and at_once != batch:
        yield (
            f"ctx_batch_size={at_once} with batch_size={batch} needs is_continuous_batching as well: all prompts would "
            "be written to the first places of the cache, and answers would be wrong. Set it, or remove ctx_batch_size."
        )


def _of_blocks(fields: Mapping[str, Any]) -> Iterator[str]:
    """Either alone is compiled, and then not fed as it was compiled."""
    blocks = _is_on(fields, "is_block_kv_layout")
    if _is_on(fields, "is_prefix_caching") and not blocks:
        yield "is_prefix_caching=True needs is_block_kv_layout as well. Set it, or remove is_prefix_caching."
    if blocks and not (_is_on(fields, "is_prefix_caching") or _is_on(fields, "chunked_prefill_config")):
        yield "is_block_kv_layout=True needs is_prefix_caching as well. Set it, or remove is_block_kv_layout."


def _of_parallelism(fields: Mapping[str, Any]) -> Iterator[str]:
    degree = fields.get("tp_degree") or 1
    for name in ("cp_degree", "attention_dp_degree"):
        part = fields.get(name) or 1
        if degree % part:
            yield f"tp_degree={degree} is not a multiple of {name}={part}. Change one of them."
    if (fields.get("mlp_cp_degree") or 1) > 1 and not _is_on(fields, "sequence_parallel_enabled"):
        yield f"{_shown(fields, 'mlp_cp_degree')} needs sequence_parallel_enabled as well. Set it."
    if _is_on(fields, "strided_context_parallel_kernel_enabled") and (fields.get("cp_degree") or 1) == 1:
        yield "strided_context_parallel_kernel_enabled=True needs a cp_degree above 1. Set it, or remove the kernel."
    dp, batch = fields.get("attention_dp_degree") or 1, fields.get("tkg_batch_size") or fields.get("batch_size") or 1
    if dp > 1 and not _is_on(fields, "is_continuous_batching"):
        yield f"attention_dp_degree={dp} needs is_continuous_batching as well. Set it."
    if batch % dp:
        yield f"attention_dp_degree={dp} has to divide the batch of {batch}. Change one of them."


def _of_types(fields: Mapping[str, Any]) -> Iterator[str]:
    quantized = [name for name in QUANTIZED if _is_on(fields, name)]
    kernels = [name for name in QKV_KERNELS if _is_on(fields, name)]
    if quantized and kernels and not _is_on(fields, "modules_to_not_convert"):
        yield (
            f"{_shown(fields, quantized[0])} with {_shown(fields, kernels[0])} needs modules_to_not_convert as well. "
            f"Set it, or remove {kernels[0]}."
        )
    attention, model = fields.get("attention_dtype"), fields.get("torch_dtype") or "bfloat16"
    if attention is not None and attention != model and fields.get("cast_type") != "as-declared":
        yield (
            f"attention_dtype={attention} is not torch_dtype={model}, and everything is cast to the latter. Set "
            "cast_type=as-declared, or remove attention_dtype."
        )


def _is_on(fields: Mapping[str, Any], name: str) -> bool:
    """Set to something: an empty object is something, 0, false and "" are not."""
    value = fields.get(name)
    return isinstance(value, dict) or bool(value)


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return shown(name, fields.get(name))
