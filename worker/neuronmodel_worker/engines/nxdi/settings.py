"""Settings for the library's NeuronConfig and OnDeviceSamplingConfig, as `inference_demo` makes them."""

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any

from neuronmodel_api.config import Server, WorkerConfig
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES, Machine
from neuronmodel_worker.engines.nxdi.flag_checks import check_environment, check_flags
from neuronmodel_worker.engines.nxdi.vllm_checks import check_graph
from neuronmodel_worker.neuron_config.fields import check_fields

# The defaults of `inference_demo`, not of OnDeviceSamplingConfig, whose top_k_kernel_enabled depends on the platform.
SAMPLING_DEFAULTS: Mapping[str, object] = {
    "do_sample": False,
    "top_k": 1,
    "top_p": 1.0,
    "temperature": 1.0,
    "dynamic": False,
    "top_k_kernel_enabled": False,
}

PLATFORM_VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"


class Purpose(Enum):
    """The use of shards, as the values of (`save_sharded_checkpoint`, `skip_sharding`)."""

    COMPILE = (False, True)
    """The library writes none."""
    SHARD = (True, False)
    """The library writes them, with `Weights.NATIVE`."""
    READ = (True, True)
    """They exist in a sealed set."""
    LOAD = (False, False)
    """They are made while the model loads."""

    @property
    def fields(self) -> dict[str, bool]:
        saves, skips = self.value
        return {"save_sharded_checkpoint": saves, "skip_sharding": skips}


# Fields that determine how weights are loaded, and not the graph.
LOADING_FIELDS = frozenset({"save_sharded_checkpoint", "skip_sharding", "skip_warmup", "quantized_checkpoints_path"})


def check_settings(
    fields: Mapping[str, Any], model_type: str, server: Server, model: Mapping[str, object] | None = None
) -> None:
    """Raises FlagsRefused for the first field that is unknown, of the wrong type, or in conflict with another one, the
    model or the environment. `model` is config.json, where it is known."""
    check_fields(fields, model_type)
    check_flags(fields, server, model_type, model)
    if server is Server.VLLM:
        check_graph(fields)
    check_environment(os.environ, fields)


def with_purpose(fields: Mapping[str, Any], purpose: Purpose) -> dict[str, Any]:
    """The fields for NeuronConfig: absent ones stay absent, and those of the strategy are set for the purpose."""
    given = {name: value for name, value in fields.items() if value is not None}
    if (sampling := given.get("on_device_sampling_config")) is not None:
        given["on_device_sampling_config"] = sampling_fields(sampling)
    return given | purpose.fields


def sampling_fields(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of OnDeviceSamplingConfig, with the defaults of `inference_demo`."""
    return {**SAMPLING_DEFAULTS, **{name: value for name, value in sampling.items() if value is not None}}


def graph_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that determine the graph."""
    return {name: value for name, value in with_purpose(fields, Purpose.COMPILE).items() if name not in LOADING_FIELDS}


def machine(config: WorkerConfig) -> Machine | None:
    """The machine of the nodes; None where their instance type is not known."""
    return MACHINES.get(config.instance_type)


def platform(config: WorkerConfig) -> str:
    """The platform that the compiler compiles for."""
    return os.environ.get(PLATFORM_VARIABLE) or (machine(config) or DEFAULT_MACHINE).platform
