"""How a command divides a model among cores, from flags and environment, which must not contradict each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from neuronmodel_worker.commands.migrate.environment import CORES_A_LOGICAL_ONE, NUM_CORES, integer
from neuronmodel_worker.commands.migrate.given_flags import InferenceDemoCommand, LeftOut
from neuronmodel_worker.commands.migrate.not_understood import NotUnderstood

LOGICAL_CORE_FLAGS: Final = ("--logical-nc-config", "--logical-neuron-cores")
LOGICAL_CORES: Final = (1, 2)


@dataclass(frozen=True)
class CommandParallelism:
    """`logical_cores` physical cores form a logical one; None if nothing says it."""

    degree: int
    ranks: range
    logical_cores: int | None
    on_cpu: bool
    left_out: tuple[LeftOut, ...] = ()

    @property
    def is_partial(self) -> bool:
        return len(self.ranks) < self.degree

    def spec(self) -> dict[str, Any]:
        """Returns `spec.parallelism`."""
        found: dict[str, Any] = {"tensorParallelDegree": self.degree}
        if self.logical_cores is not None and not self.on_cpu:
            found["logicalNeuronCoreConfig"] = self.logical_cores
        if self.is_partial:
            found |= {"startRank": self.ranks.start, "localRanks": len(self.ranks)}
        return found


def read_parallelism(command: InferenceDemoCommand) -> CommandParallelism:
    """Raises NotUnderstood."""
    ranks = _ranks(command)
    return CommandParallelism(
        degree=command.value("--tp-degree", 1),
        ranks=ranks,
        logical_cores=_logical_cores(command),
        on_cpu="--on-cpu" in command,
        left_out=tuple(_cores_left_out(command, len(ranks))),
    )


def _ranks(command: InferenceDemoCommand) -> range:
    for name in ("--pp-degree", "--ep-degree"):
        if command.value(name, 1) > 1:
            raise NotUnderstood(
                command.line(name),
                f"{name} is {command.value(name)}, and the ranks of a NeuronModel are those of --tp-degree alone.",
            )
    degree: int = command.value("--tp-degree", 1)
    if degree < 1:
        raise NotUnderstood(command.line("--tp-degree"), f"--tp-degree is {degree} and has to be at least 1.")
    first, count = command.value("--start_rank_id", 0), command.value("--local_ranks_size", degree)
    if first < 0 or count < 1 or first + count > degree:
        name = "--local_ranks_size" if "--local_ranks_size" in command else "--start_rank_id"
        raise NotUnderstood(
            command.line(name),
            f"{count} ranks from {first} on are asked for, and --tp-degree {degree} has ranks 0 to {degree - 1}.",
        )
    return range(first, first + count)


def _logical_cores(command: InferenceDemoCommand) -> int | None:
    found = list(_logical_core_settings(command))
    for name, cores, line in found:
        if cores not in LOGICAL_CORES:
            raise NotUnderstood(line, f"{name} is {cores}, and 1 or 2 physical cores make a logical one.")
        first, others, before = found[0]
        if cores != others:
            raise NotUnderstood(
                line, f"{name} is {cores}, and {first} in line {before} is {others}. Make them the same, or leave one."
            )
    return found[0][1] if found else None


def _logical_core_settings(command: InferenceDemoCommand) -> Iterator[tuple[str, int, int]]:
    """Yields name, value and line of every setting."""
    for name in CORES_A_LOGICAL_ONE:
        if variable := command.invocation.environment.get(name):
            yield name, integer(name, variable), variable.line
    for name in LOGICAL_CORE_FLAGS:
        if name in command:
            yield name, command.value(name), command.line(name)


def _cores_left_out(command: InferenceDemoCommand, num_ranks: int) -> Iterator[LeftOut]:
    """Yields NEURON_RT_NUM_CORES if it is not what the operator derives."""
    variable = command.invocation.environment.get(NUM_CORES)
    if variable is None:
        return
    cores = integer(NUM_CORES, variable)
    if cores < num_ranks:
        raise NotUnderstood(
            variable.line, f"{NUM_CORES} is {cores}, and there are {num_ranks} ranks, a core each. Correct one of them."
        )
    if cores > num_ranks:
        yield LeftOut(variable.line, NUM_CORES, f"a worker is given as many cores as it has ranks, {num_ranks}")
