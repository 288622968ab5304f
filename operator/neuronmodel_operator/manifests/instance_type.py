"""The machine that a NeuronModel's node selector names, and what follows from it: logical cores, devices, platform."""

import math
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.config import Engine
from neuronmodel_api.machines import DEFAULT_MACHINE, MACHINES, Machine
from neuronmodel_api.spec import NeuronModelSpec

DEFAULT_LOGICAL_CORE_CONFIG: Final = DEFAULT_MACHINE.default_logical_core_config
"""The default of trn2."""
PHYSICAL_CORES_PER_DEVICE: Final = DEFAULT_MACHINE.cores_per_device
"""The physical cores of a trn2 device; `logicalNeuronCoreConfig` of them form one logical core, and each rank has
one."""


def instance_type(spec: NeuronModelSpec) -> str:
    """Returns the instance type of the nodes where the model serves; "" for an engine that runs on any node."""
    if spec.engine is not Engine.NEURON:
        return ""
    return (spec.worker.node_selector or {}).get(names.INSTANCE_TYPE_LABEL, names.DEFAULT_INSTANCE_TYPE)


def machine(spec: NeuronModelSpec) -> Machine | None:
    """Returns the machine, or None if the instance type is unknown."""
    return MACHINES.get(instance_type(spec))


def logical_core_config(spec: NeuronModelSpec) -> int:
    """Returns how many physical cores form a logical one; by default as many as the machine can join."""
    default = (machine(spec) or DEFAULT_MACHINE).default_logical_core_config
    return spec.parallelism.logical_neuron_core_config or default


def num_devices(spec: NeuronModelSpec) -> int:
    """Returns the number of whole `aws.amazon.com/neuron` devices: nodes count cores in different ways, but devices in
    one."""
    cores = (machine(spec) or DEFAULT_MACHINE).cores_per_device
    return math.ceil(spec.parallelism.num_local_ranks * logical_core_config(spec) / cores)


def platform(spec: NeuronModelSpec) -> str:
    """Returns the compiler's target platform, which it needs where there is no device to detect."""
    return (machine(spec) or DEFAULT_MACHINE).platform
