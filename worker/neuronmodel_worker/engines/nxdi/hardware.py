"""The Neuron devices that this pod sees, from the files that the driver and the device plugin make."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronmodel_api.machines import MACHINES, Machine
from neuronmodel_api.report import Devices
from neuronmodel_worker.engines.nxdi.neuron_failures import LogicalCoreMismatch, NoNeuronDevice

NEURON_LS = "neuron-ls"
# By platform, for machines that are not known.
CORES = {"inf2": 2} | {machine.platform: machine.cores_per_device for machine in MACHINES.values()}
DEFAULT_LOGICAL_CORES = {machine.platform: machine.default_logical_core_config for machine in MACHINES.values()}


@dataclass(frozen=True)
class Hardware:
    """The Neuron devices of a machine; tests replace `root`."""

    root: Path = Path("/")

    @property
    def device_files(self) -> list[Path]:
        return [file for file in (self.root / "dev").glob("neuron*") if re.fullmatch(r"neuron\d+", file.name)]

    @property
    def driver(self) -> str | None:
        try:
            return (self.root / "sys/module/neuron/version").read_text().strip() or None
        except OSError:
            return None

    def listed(self) -> list[dict[str, Any]]:
        """The devices that `neuron-ls` lists; empty where it is missing or fails."""
        command = shutil.which(NEURON_LS) or shutil.which(NEURON_LS, path=str(self.root / "opt/aws/neuron/bin"))
        if command is None:
            return []
        try:
            done = subprocess.run([command, "--json-output"], capture_output=True, timeout=30, check=True)
            devices = json.loads(done.stdout)
        except (OSError, subprocess.SubprocessError, ValueError):
            return []
        return [each for each in devices if isinstance(each, dict)] if isinstance(devices, list) else []


def count_devices(hardware: Hardware) -> int:
    return len(hardware.device_files) or len(hardware.listed())


def find_devices(
    hardware: Hardware,
    *,
    ranks: int,
    logical_cores: int | None,
    machine: Machine | None,
    platform: str,
    versions: dict[str, str],
) -> Devices:
    """The devices of this pod. Raises NoNeuronDevice, also where there are too few for `ranks`, and LogicalCoreMismatch
    where the machine has no logical cores of that size."""
    count = count_devices(hardware)
    if count == 0:
        raise NoNeuronDevice(
            "There is no Neuron device in this pod: no /dev/neuron0, and neuron-ls lists none. Let it run on a node "
            "with Neuron devices and their driver, and let it ask for aws.amazon.com/neuron or a resource claim."
        )
    size = logical_core_size(logical_cores, machine, platform)
    physical = count * (machine.cores_per_device if machine else CORES.get(platform, 8))
    cores = physical // size
    if cores < ranks:
        raise NoNeuronDevice(
            f"{ranks} ranks need as many logical cores, and the {count} Neuron devices of this pod make {cores} "
            f"({physical} physical cores, {size} for a logical one). Ask for more devices, or lower "
            "tensorParallelDegree."
        )
    return Devices(count=count, cores=cores, logical_core_config=size, driver=hardware.driver, versions=dict(versions))


def logical_core_size(asked: int | None, machine: Machine | None, platform: str) -> int:
    """The size of a logical core in physical ones. Raises LogicalCoreMismatch where the machine has none of that
    size."""
    size = asked or DEFAULT_LOGICAL_CORES.get(platform, 1)
    if machine and size not in machine.logical_core_configs:
        sizes = " or ".join(map(str, machine.logical_core_configs))
        raise LogicalCoreMismatch(
            f"A {machine.name} makes logical cores of {sizes} physical ones, and "
            f"logicalNeuronCoreConfig is {size}. Change it, or the instance type."
        )
    return size
