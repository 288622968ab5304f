"""vLLM's command line for a graph that is compiled already.

vLLM's Neuron plugin (0.2 to 0.5) builds NxD Inference's configuration from these arguments and
`override_neuron_config`; given compiled artifacts, it then uses the configuration that they were compiled with. The
arguments therefore agree with the graph, or vLLM would plan batches and cache blocks that the graph does not have.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neuronmodel_api.config import WorkerConfig
from neuronmodel_worker.engines.nxdi.vllm_checks import check_graph, uses_blocks
from neuronmodel_worker.engines.vllm_arguments import batch_size, check_extra_arguments, sequence_length
from neuronmodel_worker.serve.vllm.arguments import first_arguments, last_arguments


def vllm_arguments(config: WorkerConfig, source: Path, port: int) -> list[str]:
    """Returns the arguments that follow `vllm`, the user's own last. Raises FlagsRefused."""
    flags = config.neuron_config
    check_graph(flags)
    check_extra_arguments(config.extra_args)
    return [
        *first_arguments(config, source, port),
        *_data_type(flags),
        *_cache(flags),
        "--additional-config",
        json.dumps(_additional(flags), sort_keys=True),
        *last_arguments(config),
    ]


def _data_type(flags: Mapping[str, Any]) -> list[str]:
    dtype = flags.get("torch_dtype")
    return ["--dtype", str(dtype).removeprefix("torch.")] if dtype else []


def _cache(flags: Mapping[str, Any]) -> list[str]:
    """Returns the cache's arguments. Only prefix caching uses blocks. A contiguous cache has one block a sequence, as
    long as the model's sequence: the plugin sets that size itself, beyond what `--block-size` accepts. In both cases it
    adds an empty block to the override."""
    if uses_blocks(flags):
        blocks = ["--block-size", str(flags["pa_block_size"])]
        return ["--enable-prefix-caching", *blocks, "--num-gpu-blocks-override", str(flags["pa_num_blocks"] - 1)]
    return ["--no-enable-prefix-caching", "--num-gpu-blocks-override", str(batch_size(flags))]


def _additional(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Returns --additional-config. Without `max_prompt_length`, a prompt longer than the graph accepts ends vLLM's
    engine instead of being refused; plugins that do not know the field ignore it."""
    override = {"on_device_sampling_config": None, **flags}
    if uses_blocks(flags):
        override["pa_num_blocks"] = flags["pa_num_blocks"] - 1
    additional: dict[str, Any] = {"override_neuron_config": override}
    context_length = int(flags.get("max_context_length", sequence_length(flags)))
    if context_length != sequence_length(flags):
        additional["max_prompt_length"] = context_length
    return additional
