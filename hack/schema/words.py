"""The pages of docs/reference that are the contract's words: made from the enumerations of neuronmodel_api."""

from collections.abc import Iterable

from neuronmodel_api.phases import MeasuredBy, StartPhase
from neuronmodel_api.reasons import Reason, ReasonUse
from neuronmodel_api.report import Stage

REASONS = """# Reasons

The values of `reason` in the conditions of a NeuronModel. The condition's message names the object and says
what to do in this case. Once a problem is fixed, that is noticed automatically; a failed `prepare` is retried
after 1, 2, 4 … 30 minutes, and immediately when the annotation `neuronmodel.dev/retry` gets a new value.

A NeuronModel that is older than a few seconds has a reason. If it has none, or if `status.observedGeneration`
stays behind its generation, no operator watches it, or its status can't be written (Event
`StatusNotWritten`): [what it can be](../guide.md#all-columns-empty-or-stale-what-it-can-be).

"""
BLOCKING = """
## Time that is not in LOAD
With one of these as the reason of Ready, a start makes no progress until somebody fixes the problem. That time is its
phase `Blocked`, which records the reason too:
"""
EVENTS = """
## In Events and notes alone
Problems that do not stop a start, and other things worth knowing, are in Events; the problems of a start are in
`status.starts[].notes` as well. Notes also keep why attempts of `prepare` failed if another attempt followed.

"""
STARTS = """
## Of a start that failed
`status.starts[].reason` is the reason of the condition that showed the failure, or:

"""
STRATEGY = """
## Of the strategy
`status.strategy.reason`; [how `Auto` chooses](../strategies.md).

"""

PHASES = """# Phases of a start

The values of `name` in `status.starts[].phases[]`, and of `phase` in `status.workers[].progress`. A start is one list
of phases without gaps: each begins where the previous one ends, and they add up to the total. Phases of the stage
`Prepare` belong to the Job, those of `Serve` to the serving pod. Phases that run in parallel share the time; how long
each of them was active is in `busyMilliseconds`.

Phases measured by the worker are exact to the millisecond, by its own clock. Those measured by the operator come from
times that Kubernetes records, to the second. Some are absent if there was nothing to do: a second start neither
compiles nor shards.

"""
CLEANUP = """
## Of clean-up
The Job that removes the artifacts of a NeuronModel with `retention: Delete` is not part of a start; its report has:

"""


def phases_page() -> str:
    of_starts = [phase for phase in StartPhase if set(phase.stages) != {Stage.CLEANUP}]
    others = [phase for phase in StartPhase if phase not in of_starts]
    return f"{PHASES}{_phases(of_starts)}{CLEANUP}{_phases(others)}"


def _phases(phases: Iterable[StartPhase]) -> str:
    rows = [
        (
            f"`{phase}`",
            ", ".join(stage for stage in phase.stages if stage is not Stage.CLEANUP) or Stage.CLEANUP,
            "the worker" if phase.measured_by is MeasuredBy.WORKER else "the operator",
            phase.meaning,
            phase.remedy,
        )
        for phase in phases
    ]
    return table(("phase", "stage", "measured by", "what it is", "when it is long"), rows)


def reasons_page() -> str:
    blocking = ", ".join(f"`{reason}`" for reason in Reason if reason.blocks)
    return (
        f"{REASONS}{_reasons(ReasonUse.CONDITION)}{BLOCKING}{blocking}.\n"
        f"{EVENTS}{_reasons(ReasonUse.EVENT, ReasonUse.NOTE)}{STARTS}{_reasons(ReasonUse.START)}"
        f"{STRATEGY}{_reasons(ReasonUse.STRATEGY)}"
    )


def _reasons(*uses: ReasonUse) -> str:
    rows = [(f"`{reason}`", reason.meaning, reason.remedy) for reason in Reason if reason.use in uses]
    return table(("reason", "meaning", "what to do"), rows)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heading = list(head)
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
