"""The machine: a trn2.48xlarge with as many devices as it is given, none by itself."""

import os
from pathlib import Path

CORES_PER_DEVICE = 8
"""Physical ones."""
DEVICE_BYTES = 96 << 30
PLATFORM = "trn2"
DEFAULT_LOGICAL_CORE_CONFIG = 2
NEFF_VERSION = 2


def devices() -> int:
    """Enough for `NEURON_STANDIN_CORES` logical cores where that is a number; in a pod without devices the variable
    that it refers to is not there, and its name is all that comes."""
    cores = os.environ.get("NEURON_STANDIN_CORES", "")
    if cores.isdigit():
        return -(-int(cores) * logical_core_config() // CORES_PER_DEVICE)
    given = os.environ.get("NEURON_STANDIN_DEVICES")
    return int(given) if given else len(list(Path("/dev").glob("neuron[0-9]*")))


def logical_core_config() -> int:
    """The runtime's: it knows nothing of a model's flags."""
    for variable in ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE"):
        if value := os.environ.get(variable):
            return int(value)
    return DEFAULT_LOGICAL_CORE_CONFIG


def visible_cores() -> int:
    """Logical cores that the process may claim."""
    cores = devices() * CORES_PER_DEVICE // logical_core_config()
    if visible := os.environ.get("NEURON_RT_VISIBLE_CORES"):
        return min(cores, sum(map(_length, visible.split(","))))
    return min(cores, int(os.environ.get("NEURON_RT_NUM_CORES") or cores))


def core_bytes() -> int:
    return DEVICE_BYTES // CORES_PER_DEVICE * logical_core_config()


def _length(span: str) -> int:
    first, _, last = span.partition("-")
    return int(last or first) - int(first) + 1
