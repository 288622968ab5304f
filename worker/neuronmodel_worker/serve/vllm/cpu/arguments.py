"""vLLM's command line on processors.

The cache of keys and values is as large as the spec's sequences need, and no larger: by default vLLM would ask for
nearly all of the node's memory, whatever the pod may use. Nothing is compiled in a start: with `--enforce-eager` vLLM
needs no C++ compiler and answers a minute earlier. Further arguments come later, and vLLM takes the last one of a name.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.checkpoint import DTYPE_BITS
from neuronmodel_worker.engines.vllm_arguments import batch_size, check_extra_arguments, sequence_length
from neuronmodel_worker.layouts.heads import CacheShape, round_up
from neuronmodel_worker.neuron_config.values import DTYPES
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.serve.vllm.arguments import first_arguments, last_arguments

LOAD_FORMAT: Final = "neuronmodel"
"""Under which our loader is registered."""
BLOCK_TOKENS: Final = 128
"""vLLM's own default on processors."""
EMPTY_BLOCKS: Final = 1
"""vLLM keeps one that no sequence uses."""


def cpu_arguments(config: WorkerConfig, plan: StreamedPlan, source: Path, port: int) -> list[str]:
    """Returns the arguments that follow `vllm`, the user's own last. Raises FlagsRefused."""
    check_extra_arguments(config.extra_args)
    flags, dtype = config.neuron_config, plan.layout.dtype
    return [
        *first_arguments(config, source, port),
        "--dtype", next(name for name, kind in DTYPES.items() if kind == dtype),
        "--load-format", LOAD_FORMAT,
        "--enable-prefix-caching" if flags.get("is_prefix_caching") else "--no-enable-prefix-caching",
        "--block-size", str(block_tokens(flags)),
        "--kv-cache-memory-bytes", str(cache_bytes(flags, plan.layout.cache, dtype)),
        "--enforce-eager",
        *last_arguments(config),
    ]  # fmt: skip


def block_tokens(flags: Mapping[str, Any]) -> int:
    return int(flags.get("pa_block_size") or BLOCK_TOKENS)


def cache_bytes(flags: Mapping[str, Any], cache: CacheShape | None, dtype: str) -> int:
    """Returns the bytes of one rank's keys and values: of the blocks that the spec names, or of all sequences."""
    assert cache is not None, "every layout with attention has a cache"
    tokens = block_tokens(flags)
    blocks = batch_size(flags) * round_up(sequence_length(flags), tokens) // tokens
    blocks = max(int(flags.get("pa_num_blocks") or 0), blocks + EMPTY_BLOCKS)
    return blocks * tokens * 2 * cache.layers * cache.heads * cache.head_size * DTYPE_BITS[dtype] // 8
