"""Whether a start fits the machine: checked before anything is built and before any device is requested."""

from neuronmodel_api.config import Engine, Strategy, WorkerConfig
from neuronmodel_api.machines import GIB, MACHINES, Machine
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Sizing
from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.plan.streamed import ModelPlan
from neuronmodel_worker.sizing.needs import logical_core_config, size
from neuronmodel_worker.units import in_units


class DoesNotFit(BadInput):
    reason = Reason.DOES_NOT_FIT

    def __init__(self, machine: str, misfits: tuple[str, ...]) -> None:
        self.misfits = misfits
        super().__init__(
            f"The model does not fit a {machine}. {' '.join(misfits)} Choose another tensor parallel degree, logical "
            "core configuration, sequence length or batch size, or the instance type that the model is to serve on."
        )


def check(sizing: Sizing, config: WorkerConfig, ranks: int) -> None:
    """Raises DoesNotFit with the figures of everything that does not fit. Unknown figures refuse nothing."""
    machine = MACHINES.get(config.instance_type)
    if machine and (found := misfits(sizing, config, ranks, machine)):
        raise DoesNotFit(machine.name, found)


def require_fit(plan: ModelPlan, config: WorkerConfig) -> None:
    """Raises DoesNotFit; with Auto, only if neither strategy fits."""
    auto = config.strategy is Strategy.AUTO
    possible = (Strategy.SHARD_ON_COMPILE, Strategy.SHARD_ON_LOAD) if auto else (config.strategy,)
    refused: list[DoesNotFit] = []
    for strategy in possible:
        try:
            check(size(plan, config, strategy), config, len(plan.ranks))
        except DoesNotFit as failure:
            refused.append(failure)
    if len(refused) == len(possible):
        raise refused[0]


def misfits(sizing: Sizing, config: WorkerConfig, ranks: int, machine: Machine) -> tuple[str, ...]:
    """Returns one sentence for each thing that does not fit.

    The CPU engine needs no machine of the table, and estimated weights refuse nothing.
    """
    if config.engine is Engine.CPU:
        return ()
    found = (_cores(config, ranks, machine), *_memory(sizing, config, machine))
    return tuple(sentence for sentence in found if sentence)


def _cores(config: WorkerConfig, ranks: int, machine: Machine) -> str | None:
    each = logical_core_config(config)
    if each not in machine.logical_core_configs:
        known = " or ".join(map(str, machine.logical_core_configs))
        return f"A logical core is to be made of {each} physical ones, and a {machine.name} makes one of {known}."
    if ranks > machine.logical_cores(each):
        return (
            f"{_count(ranks, 'rank')} need as many logical cores, and it has {machine.logical_cores(each)} "
            f"({_count(machine.devices, 'device')} of {machine.cores_per_device} cores, {each} to a logical one)."
        )
    return None


def _memory(sizing: Sizing, config: WorkerConfig, machine: Machine) -> tuple[str | None, ...]:
    """Returns sentences on memory and disk space. Copies are not counted: a start does without them if there is no
    space."""
    if sizing.estimated:
        return ()
    core, needed = sizing.core_bytes, core_needs(sizing)
    host, nvme, scratch = machine.memory_bytes, machine.nvme_bytes, sizing.scratch_bytes
    return (
        f"A rank takes {in_units(needed)} of device memory ({described_core(sizing)}), and a logical core has "
        f"{in_gib(core)}."
        if core is not None and needed > core
        else None,
        f"A start takes {in_units(sizing.host_memory_bytes)} of host memory, and the machine has {in_gib(host)}."
        if host is not None and sizing.host_memory_bytes > host
        else None,
        f"The scratch volume takes {in_units(scratch)}, and the machine's NVMe has {in_units(nvme)}."
        if config.scratch_on_node and nvme is not None and scratch > nvme
        else None,
    )


def core_needs(sizing: Sizing) -> int:
    """Returns how many bytes a rank takes of a logical core's memory."""
    return sizing.rank_bytes + sizing.cache_bytes + sizing.reserve_bytes


def described_core(sizing: Sizing) -> str:
    return (
        f"weights {in_units(sizing.rank_bytes)}, key/value cache {in_units(sizing.cache_bytes)}, "
        f"reserve {in_units(sizing.reserve_bytes)}"
    )


def in_gib(nbytes: int) -> str:
    """Formats bytes in decimal units, as everywhere, and in the binary ones of AWS's tables."""
    return f"{in_units(nbytes)} ({nbytes / GIB:,.4g} GiB)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
