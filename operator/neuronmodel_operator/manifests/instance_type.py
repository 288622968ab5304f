"""The machine that a NeuronModel's node selector names, and what follows from it: logical cores, devices, platform."""

import math
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.config import Engine
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES, Machine
from neuronmodel_api.spec import NeuronModelSpec

DEFAULT_LOGICAL_CORE_CONFIG: Final = DEFAULT_MACHINE.default_logical_core_config
"""trn2's own."""
PHYSICAL_CORES_PER_DEVICE: Final = DEFAULT_MACHINE.cores_per_device
"""Of a trn2 device; `logicalNeuronCoreConfig` of them make one logical core, and a rank has one logical core."""


def instance_type(spec: NeuronModelSpec) -> str:
    """Of the nodes where the model serves; "" for an engine that any node will do for."""
    if spec.engine is not Engine.NEURON:
        return ""
    return (spec.worker.node_selector or {}).get(names.INSTANCE_TYPE_LABEL, names.DEFAULT_INSTANCE_TYPE)


def machine(spec: NeuronModelSpec) -> Machine | None:
    """None: nothing is known of it."""
    return MACHINES.get(instance_type(spec))


def logical_core_config(spec: NeuronModelSpec) -> int:
    """Absent: the most physical cores that the machine can join."""
    default = (machine(spec) or DEFAULT_MACHINE).default_logical_core_config
    return spec.parallelism.logical_neuron_core_config or default


def num_devices(spec: NeuronModelSpec) -> int:
    """Whole `aws.amazon.com/neuron` devices: a node counts cores in more than one way, devices in one."""
    cores = (machine(spec) or DEFAULT_MACHINE).cores_per_device
    return math.ceil(spec.parallelism.num_local_ranks * logical_core_config(spec) / cores)


def platform(spec: NeuronModelSpec) -> str:
    """What the compiler has to be told where there is no device that it could ask."""
    return (machine(spec) or DEFAULT_MACHINE).platform
