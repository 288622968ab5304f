"""Checks of NeuronConfig's fields that cannot be served together, and of an environment that contradicts them.

What the library itself refuses is in `neuron_config.combinations`; what it silently does differently is refused here.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from neuronmodel_api.config import Server
from neuronmodel_worker.failures import FlagsRefused
from neuronmodel_worker.neuron_config.combinations import refusals
from neuronmodel_worker.neuron_config.values import DEFAULT_SEQUENCE_LENGTH, is_on, shown

# For a field that is on: groups of fields, of each of which one has to be on or set. The library does not check this.
NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "is_medusa": (("medusa_speculation_length",), ("num_medusa_heads",)),
    "medusa_tree": (("is_medusa",),),
    "medusa_speculation_length": (("is_medusa",),),
    "num_medusa_heads": (("is_medusa",),),
    # The next step takes its token directly from the device.
    "async_mode": (("on_device_sampling_config",),),
    "context_encoding_buckets": (("enable_bucketing",),),
    "token_generation_buckets": (("enable_bucketing",),),
}

# They need a second checkpoint, the draft model, which no field of NeuronConfig names.
DRAFT_FIELDS = (
    "enable_fused_speculation",
    "enable_eagle_speculation",
    "speculation_length",
    "is_eagle3",
    "is_eagle_draft",
    "enable_eagle_draft_input_norm",
    "token_tree_config",
    "draft_model_modules_to_not_convert",
)
# Features that need vLLM: the library's own generation does not support them.
VLLM_FIELDS = ("is_block_kv_layout", "is_prefix_caching", "chunked_prefill_config", "is_medusa")


def check_flags(
    fields: Mapping[str, Any], server: Server, model_type: str, model: Mapping[str, object] | None = None
) -> None:
    """Raises FlagsRefused for the first conflict, including those that the library refuses. `model` is config.json,
    where it is known."""
    for sentence in _conflicts(fields, server, model_type, model or {}):
        raise FlagsRefused(sentence)


def check_environment(environment: Mapping[str, str], fields: Mapping[str, Any]) -> None:
    """Raises FlagsRefused for variables with which the library would use other settings than those that were asked
    for."""
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
    """How many physical cores make a logical one; None for the platform's default."""
    found = fields.get("logical_nc_config") or fields.get("logical_neuron_cores")
    return int(found) if found else None


def world_size(fields: Mapping[str, Any]) -> int:
    """The number of ranks of the whole model."""
    return int(fields.get("tp_degree") or 1) * int(fields.get("pp_degree") or 1) * int(fields.get("ep_degree") or 1)


def local_ranks(fields: Mapping[str, Any]) -> range:
    """The numbers of this pod's ranks."""
    start = int(fields.get("start_rank_id") or 0)
    return range(start, start + int(fields.get("local_ranks_size") or world_size(fields)))


def max_lengths(fields: Mapping[str, Any]) -> tuple[int, int]:
    """The longest prompt and the longest sequence, in tokens: the library computes neither beyond its largest
    bucket."""
    length = fields.get("seq_len") or DEFAULT_SEQUENCE_LENGTH
    sequence = min(fields.get("max_length") or length, *_largest(fields, "token_generation_buckets"))
    prompt = min(fields.get("max_context_length") or length, sequence, *_largest(fields, "context_encoding_buckets"))
    return int(prompt), int(sequence)


def _largest(fields: Mapping[str, Any], buckets: str) -> list[float]:
    """The largest bucket, as a list of one; infinity where there are none."""
    return [max(fields.get(buckets) or [math.inf])]


def _conflicts(
    fields: Mapping[str, Any], server: Server, model_type: str, model: Mapping[str, object]
) -> Iterator[str]:
    for name, needs in NEEDS.items():
        for partners in needs if is_on(fields, name) else ():
            if not any(is_on(fields, each) for each in partners):
                yield f"{_shown(fields, name)} needs {' or '.join(partners)} as well. Set it, or remove {name}."
    for name in VLLM_FIELDS if server is Server.OPENAI else ():
        if is_on(fields, name):
            yield (
                f"{_shown(fields, name)} is for a server that places sequences in the cache by itself. Set "
                "spec.serving.server: VLLM, or remove it."
            )
    yield from _size_conflicts(fields)
    yield from refusals(fields, model, model_type)
    yield from _rank_conflicts(fields)
    yield from _batch_conflicts(fields)
    for name in DRAFT_FIELDS:
        if is_on(fields, name):
            yield (
                f"{_shown(fields, name)} needs a draft model, and a NeuronModel names one checkpoint alone. Remove it."
            )
    if is_on(fields, "is_prefix_caching") and not is_on(fields, "is_block_kv_layout"):
        # it compiles, but the inputs do not match
        yield "is_prefix_caching=True needs is_block_kv_layout as well. Set it, or remove is_prefix_caching."
    if fields.get("padding_side") == "left":
        yield (
            "padding_side='left' gives wrong answers: NxD Inference's own generation then forgets how long a sequence "
            "is as soon as its padding is used up. Remove it."
        )
    if is_on(fields, "on_cpu"):
        yield "on_cpu=True computes on processors. Remove it, or use engine: CPU."


def _size_conflicts(fields: Mapping[str, Any]) -> Iterator[str]:
    sequence = fields.get("seq_len") or DEFAULT_SEQUENCE_LENGTH
    if (fields.get("max_length") or sequence) > sequence:
        yield f"{_shown(fields, 'max_length')} is more than seq_len={sequence}. Raise seq_len, or lower max_length."


def _rank_conflicts(fields: Mapping[str, Any]) -> Iterator[str]:
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


def _batch_conflicts(fields: Mapping[str, Any]) -> Iterator[str]:
    """Conflicts of batch sizes: prompts are written to the cache one at a time, each to its own line, or all of them to
    the first lines."""
    batch, continuous = fields.get("batch_size") or 1, is_on(fields, "is_continuous_batching")
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


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return shown(name, fields.get(name))
