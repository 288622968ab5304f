"""What a start needs, from the plan and the configuration alone: nothing is opened."""

from neuronmodel_api.config import Engine, Seal, Server, Strategy, Weights, WorkerConfig
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES
from neuronmodel_api.report import Sizing
from neuronmodel_worker.artifact_keys import shard_bytes
from neuronmodel_worker.plan.streamed import ModelPlan, StreamedPlan
from neuronmodel_worker.scratch_cache.capacity import LEFT_FREE
from neuronmodel_worker.scratch_cache.copying import PIECE_BYTES, PIECES
from neuronmodel_worker.sizing.allowances import (
    FRAMEWORK_BYTES,
    MIB,
    MICROCODE_BYTES_A_PHYSICAL_CORE,
    RINGS_AND_COLLECTIVES_BYTES,
    RUNTIME_BYTES_A_CORE,
    SCRATCHPAD_PAGE_MIB,
    VLLM_BYTES,
    VLLM_BYTES_A_RANK,
    VLLM_SHARED_BYTES,
    WORK_BYTES,
)
from neuronmodel_worker.sizing.keyvalue import ConfigFields, cache_bytes
from neuronmodel_worker.stream import buffer_bytes, most_streaming_threads

ANY_KEY = "0" * 32
"""As long as a set's key, which is part of the headers of rank files."""
MOST = (1 << 63) - 1
"""The largest figure of a report. Flags may ask for more; the engine refuses them."""


def size(plan: ModelPlan, config: WorkerConfig, strategy: Strategy) -> Sizing:
    """Returns what a start needs. `strategy` is the one in force, not Auto.

    It takes milliseconds, and a second for a model with some hundred experts per layer: the buffers of a stream are
    counted by scheduling its tasks.
    """
    neuron = config.engine is Engine.NEURON
    shared = VLLM_SHARED_BYTES if config.server is Server.VLLM else 0
    scratch = WORK_BYTES[config.engine] + _fetched_bytes(plan, strategy, WORK_BYTES[config.engine])
    cache = cache_bytes(plan, config.neuron_config, config.engine)
    return Sizing(
        host_memory_bytes=min(_host_bytes(plan, config, strategy, cache) + shared, MOST),
        shared_memory_bytes=shared,
        scratch_bytes=scratch,
        copy_bytes=_copy_bytes(plan, config, strategy, scratch),
        rank_bytes=plan.rank_bytes,
        cache_bytes=min(cache, MOST),
        reserve_bytes=min(reserve_bytes(config), MOST) if neuron else 0,
        core_bytes=_core_bytes(config, len(plan.ranks)) if neuron else None,
        estimated=not isinstance(plan, StreamedPlan),
    )


def logical_core_config(config: WorkerConfig) -> int:
    """Returns how many physical cores form a logical one: the flag's value, otherwise the machine's default."""
    fields = ConfigFields(config.neuron_config)
    own = MACHINES.get(config.instance_type, DEFAULT_MACHINE).default_logical_core_config
    return fields.number("logical_nc_config") or fields.number("logical_neuron_cores") or own


def _core_bytes(config: WorkerConfig, ranks: int) -> int | None:
    """Returns a logical core's memory, or None if the machine is unknown or does not form such cores."""
    machine, each = MACHINES.get(config.instance_type), logical_core_config(config)
    return machine.core_bytes(each, ranks) if machine and each in machine.logical_core_configs else None


def reserve_bytes(config: WorkerConfig) -> int:
    """Returns how much of a logical core's memory is used for other things than weights and cache."""
    page = max(SCRATCHPAD_PAGE_MIB, ConfigFields(config.neuron_config).number("scratchpad_page_size")) * MIB
    return MICROCODE_BYTES_A_PHYSICAL_CORE * logical_core_config(config) + page + RINGS_AND_COLLECTIVES_BYTES


def _host_bytes(plan: ModelPlan, config: WorkerConfig, strategy: Strategy, cache: int) -> int:
    """Returns the host memory without /dev/shm and the page cache.

    Rank tensors stay in memory until the devices have them, or for good with the CPU engine, which computes on them.
    Sealing in the background keeps the same tensors, so it adds nothing.
    """
    ranks = len(plan.ranks)
    total = plan.output_bytes + FRAMEWORK_BYTES[config.engine]
    total += RUNTIME_BYTES_A_CORE * ranks if config.engine is Engine.NEURON else cache * ranks
    if config.server is Server.VLLM:
        total += VLLM_BYTES
        if config.engine is Engine.CPU:  # vLLM's parameters are filled from the rank tensors, in the same memory
            total += plan.output_bytes + VLLM_BYTES_A_RANK * ranks
    if config.weights is Weights.NATIVE or not isinstance(plan, StreamedPlan):
        # The library reads the whole checkpoint before it makes every rank's tensors.
        return total + (plan.source_bytes if strategy is Strategy.SHARD_ON_LOAD else 0)
    copying = PIECES * PIECE_BYTES if config.scratch_tier else 0
    sealed_behind = strategy is Strategy.SHARD_ON_COMPILE and config.seal is Seal.BEHIND
    if strategy is Strategy.SHARD_ON_LOAD or sealed_behind:
        observed = sealed_behind or config.scratch_tier
        total += buffer_bytes(plan, threads=most_streaming_threads(), into_memory=True, observed=observed)
    return total + copying


def _copy_bytes(plan: ModelPlan, config: WorkerConfig, strategy: Strategy, other_bytes: int) -> int:
    """Returns the bytes of a copy and of the free space that the cache leaves: together with `other_bytes`, the
    smallest volume that holds a copy."""
    if not config.scratch_tier or config.weights is Weights.NATIVE or not isinstance(plan, StreamedPlan):
        return 0
    copy = _files_bytes(plan) if strategy is Strategy.SHARD_ON_LOAD else shard_bytes(plan, ANY_KEY)
    return _with_free_space(copy, other_bytes)


def _fetched_bytes(plan: ModelPlan, strategy: Strategy, other_bytes: int) -> int:
    """Returns the bytes of the whole files that a start fetches from a network because NxD Inference reads them itself,
    and of the free space that is left beside them."""
    if isinstance(plan, StreamedPlan) or plan.checkpoint.source.is_local or strategy is not Strategy.SHARD_ON_LOAD:
        return 0
    return _with_free_space(_files_bytes(plan), other_bytes)


def _files_bytes(plan: ModelPlan) -> int:
    return sum(file.nbytes for file in plan.checkpoint.files)


def _with_free_space(nbytes: int, other_bytes: int) -> int:
    return -(-(nbytes + other_bytes) * 100 // (100 - LEFT_FREE)) - other_bytes
