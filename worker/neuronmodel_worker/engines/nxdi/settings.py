"""Settings where `inference_demo` puts them: NeuronConfig, OnDeviceSamplingConfig, GenerationConfig."""

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

from neuronmodel_api.config import Server, WorkerConfig
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES, Machine
from neuronmodel_worker.engines.nxdi.flag_checks import check_environment, check_flags
from neuronmodel_worker.engines.nxdi.vllm_checks import check_graph
from neuronmodel_worker.neuron_config.fields import check_fields

# The command's own, not OnDeviceSamplingConfig's: there top_k_kernel_enabled depends on the platform.
COMMAND_SAMPLING: Mapping[str, object] = {
    "do_sample": False,
    "top_k": 1,
    "top_p": 1.0,
    "temperature": 1.0,
    "dynamic": False,
    "top_k_kernel_enabled": False,
}

PLATFORM_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"


class Purpose(Enum):
    """What the library is to do about shards: `save_sharded_checkpoint` and `skip_sharding`."""

    COMPILE = (False, True)
    """It writes none."""
    SHARD = (True, False)
    """It writes them, with `Weights.NATIVE`."""
    READ = (True, True)
    """They are there, sealed."""
    LOAD = (False, False)
    """They are made while the model loads."""

    @property
    def fields(self) -> dict[str, bool]:
        saves, skips = self.value
        return {"save_sharded_checkpoint": saves, "skip_sharding": skips}


# Of how weights get to the device and not of the graph.
OF_LOADING = frozenset({"save_sharded_checkpoint", "skip_sharding", "skip_warmup", "quantized_checkpoints_path"})


def check_settings(
    fields: Mapping[str, Any], model_type: str, server: Server, model: Mapping[str, object] | None = None
) -> None:
    """`model` is config.json, where it is known. Raises FlagsRefused by the name of the first field that is unknown, of
    the wrong type, or contradicts another one, the model or the environment."""
    check_fields(fields, model_type)
    check_flags(fields, server, model_type, model)
    if server is Server.VLLM:
        check_graph(fields)
    check_environment(os.environ, fields)


def with_purpose(fields: Mapping[str, Any], purpose: Purpose) -> dict[str, Any]:
    """What NeuronConfig is to be given: absent fields stay absent, those of the strategy are this purpose's."""
    given = {name: value for name, value in fields.items() if value is not None}
    if (sampling := given.get("on_device_sampling_config")) is not None:
        given["on_device_sampling_config"] = sampling_fields(sampling)
    return given | purpose.fields


def sampling_fields(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """As the command gives them: its own values where the spec says nothing."""
    return {**COMMAND_SAMPLING, **{name: value for name, value in sampling.items() if value is not None}}


def graph_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What of them shapes the graph."""
    return {name: value for name, value in with_purpose(fields, Purpose.COMPILE).items() if name not in OF_LOADING}


def machine(config: WorkerConfig) -> Machine | None:
    """None where the nodes' type is not known."""
    return MACHINES.get(config.instance_type)


def platform(config: WorkerConfig) -> str:
    """What the compiler is to compile for."""
    return os.environ.get(PLATFORM_VARIABLE) or (machine(config) or DEFAULT_MACHINE).platform
