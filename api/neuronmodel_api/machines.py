"""Known instance types that a model may serve on: AWS's published figures, in bytes."""

from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30
TERABYTE: Final = 10**12


@dataclass(frozen=True)
class Machine:
    """An instance type. Where a figure is None it is unknown, and nothing is rejected because of it."""

    name: str
    devices: int
    """The number of `aws.amazon.com/neuron` devices."""
    cores_per_device: int
    """Physical cores."""
    device_bytes: int
    """Device memory (HBM)."""
    platform: str
    """The compiler's name of the platform."""
    logical_core_configs: tuple[int, ...]
    """How many physical cores may form a logical one."""
    memory_bytes: int | None = None
    nvme_bytes: int | None = None
    """The size of all instance-store volumes together."""
    cores_per_bank: int = 1
    """Physical cores that share a bank of the device's memory."""

    @property
    def default_logical_core_config(self) -> int:
        """The default: as many physical cores as possible."""
        return max(self.logical_core_configs)

    def logical_cores(self, logical_core_config: int) -> int:
        """Returns the number of logical cores of the whole machine."""
        return self.devices * self.cores_per_device // logical_core_config

    def core_bytes(self, logical_core_config: int, ranks: int | None = None) -> int:
        """Returns the device memory for one logical core, if `ranks` adjacent cores, or all of them, use the same
        amount: where a bank has several logical cores, a single one may fill it."""
        core = self.device_bytes // self.cores_per_device * logical_core_config
        in_a_bank = max(1, self.cores_per_bank // logical_core_config)
        return core * in_a_bank // max(1, min(in_a_bank, ranks or in_a_bank))


MACHINES: Final = {
    machine.name: machine
    for machine in (
        Machine("trn2.48xlarge", 16, 8, 96 * GIB, "trn2", (1, 2), 2048 * GIB, 4 * 19 * TERABYTE // 10, 2),
        Machine("trn2.3xlarge", 1, 8, 96 * GIB, "trn2", (1, 2), cores_per_bank=2),
        Machine("trn1.32xlarge", 16, 2, 32 * GIB, "trn1", (1,), 512 * GIB, 4 * 19 * TERABYTE // 10),
    )
}
DEFAULT_MACHINE: Final = MACHINES["trn2.48xlarge"]
