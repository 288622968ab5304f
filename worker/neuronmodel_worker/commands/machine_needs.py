"""What a start of the planned model needs of a machine with Neuron devices, with either strategy, as rows and as
JSON."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from neuronmodel_api.config import Engine, Strategy, WorkerConfig
from neuronmodel_api.machines import MACHINES, Machine
from neuronmodel_api.report import Sizing
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.sizing import misfits, size
from neuronmodel_worker.sizing.fitting import core_needs, described_core, in_gib
from neuronmodel_worker.sizing.needs import logical_core_config
from neuronmodel_worker.units import in_units

STRATEGIES = (Strategy.SHARD_ON_COMPILE, Strategy.SHARD_ON_LOAD)
UNKNOWN = "how much the machine has is not known"


@dataclass(frozen=True)
class Needs:
    """The needs on one instance type, with NeuronConfig's `fields`. An unknown `instance_type` refuses nothing."""

    plan: StreamedPlan
    fields: Mapping[str, Any]
    instance_type: str

    @cached_property
    def config(self) -> WorkerConfig:
        """The configuration of a start on that machine, with copies on its local disk."""
        return WorkerConfig(
            namespace="",
            name="",
            uid="",
            spec_hash="",
            engine=Engine.NEURON,
            instance_type=self.instance_type,
            neuron_config=dict(self.fields),
            scratch_tier=True,
            scratch_on_node=True,
        )

    @property
    def machine(self) -> Machine | None:
        return MACHINES.get(self.instance_type)

    @cached_property
    def sizings(self) -> Mapping[Strategy, Sizing]:
        return {strategy: size(self.plan, self.config, strategy) for strategy in STRATEGIES}

    def _misfits(self, strategy: Strategy) -> tuple[str, ...]:
        if self.machine is None:
            return ()
        return misfits(self.sizings[strategy], self.config, len(self.plan.ranks), self.machine)

    # For people.

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yields the rows of the table for people."""
        yield "machine", self._described_machine()
        yield "logical cores", self._cores()
        yield "device memory", self._device_memory()
        memory = {strategy: sizing.host_memory_bytes for strategy, sizing in self.sizings.items()}
        disk = {strategy: sizing.scratch_bytes + sizing.copy_bytes for strategy, sizing in self.sizings.items()}
        available = (self.machine.memory_bytes, self.machine.nvme_bytes) if self.machine else (None, None)
        yield "host memory", _for_each(memory, available[0])
        least = in_units(self.sizings[STRATEGIES[0]].scratch_bytes)
        yield "local disk", f"{least}; to keep a copy of what is loaded, {_for_each(disk, available[1])}"

    def _described_machine(self) -> str:
        machine, each = self.machine, logical_core_config(self.config)
        if machine is None:
            known = ", ".join(sorted(MACHINES))
            return f"{self.instance_type}: not known, so there are no verdicts; known are {known}"
        memory = f"{in_gib(machine.memory_bytes)} of memory" if machine.memory_bytes else "memory not known"
        nvme = f"{in_units(machine.nvme_bytes)} of NVMe" if machine.nvme_bytes else "NVMe not known"
        cores = f"{machine.devices} x {machine.cores_per_device} physical cores, {each} to a logical one"
        return f"{machine.name}: {cores}, {memory}, {nvme}"

    def _cores(self) -> str:
        needed = f"{len(self.plan.ranks)} needed"
        if self.machine is None:
            return needed
        each = logical_core_config(self.config)
        if each not in self.machine.logical_core_configs:
            return f"{needed} of {each} physical ones, and the machine makes none of so many: does not fit"
        available = self.machine.logical_cores(each)
        return f"{needed} of {available}: {_verdict(len(self.plan.ranks), available)}"

    def _device_memory(self) -> str:
        sizing = self.sizings[STRATEGIES[0]]
        needed = core_needs(sizing)
        text = f"{in_units(needed)} a core ({described_core(sizing)})"
        available = sizing.core_bytes
        return f"{text} of {in_gib(available)}: {_verdict(needed, available)}" if available is not None else text

    # For programs.

    def document(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        machine, each = self.machine, logical_core_config(self.config)
        return {
            "instance_type": self.instance_type,
            "known": machine is not None,
            "logical_core_config": each,
            "logical_cores": machine.logical_cores(each) if machine else None,
            "memory_bytes": machine.memory_bytes if machine else None,
            "nvme_bytes": machine.nvme_bytes if machine else None,
            "starts": {strategy: self._start(strategy) for strategy in STRATEGIES},
        }

    def _start(self, strategy: Strategy) -> dict[str, Any]:
        fits = not self._misfits(strategy) if self.machine else None
        return {**self.sizings[strategy].model_dump(), "fits": fits, "misfits": list(self._misfits(strategy))}


def _verdict(needed: int, available: int) -> str:
    return "fits" if needed <= available else "does not fit"


def _for_each(needed: Mapping[Strategy, int], available: int | None) -> str:
    texts = [
        f"{in_units(nbytes)} with {strategy}{f' ({_verdict(nbytes, available)})' if available is not None else ''}"
        for strategy, nbytes in needed.items()
    ]
    return ", ".join(texts) if available is not None else f"{', '.join(texts)}; {UNKNOWN}"
