"""The pages of docs/reference that are the contract's words: made from the enumerations of neuronmodel_api."""

from collections.abc import Iterable

from neuronmodel_api.phases import MeasuredBy, StartPhase
from neuronmodel_api.reasons import Reason, ReasonUse
from neuronmodel_api.report import Stage

REASONS = """# Reasons

What stands under `reason` in the conditions of a NeuronModel. The condition's message names the object and
what to do in this case. Whatever is put right is noticed by itself; a failed `prepare` is tried again
after 1, 2, 4 … 30 minutes, and at once with a new value of the annotation `neuronmodel.dev/retry`.

A NeuronModel that is older than some seconds has a reason. One without, or whose `status.observedGeneration`
stays behind its generation, is seen to by no operator, or its status can't be written (Event
`StatusNotWritten`): [what it can be](../guide.md#all-columns-empty-or-stale-what-it-can-be).

"""
BLOCKING = """
## Time that is not in LOAD
With one of these as the reason of Ready a start stands still until somebody mends it. That time is its phase `Blocked`,
which has the reason too:
"""
EVENTS = """
## In Events and notes alone
What a start goes on in spite of, or what there is to know, stands in Events, and the troubles of a start in
`status.starts[].notes` as well. Notes keep also why attempts of `prepare` failed that others followed.

"""
STARTS = """
## Of a start that failed
`status.starts[].reason` is that of the condition which showed it, or:

"""
STRATEGY = """
## Of the strategy
`status.strategy.reason`; [how `Auto` chooses](../strategies.md).

"""

PHASES = """# Phases of a start

What stands under `name` in `status.starts[].phases[]`, and under `phase` in `status.workers[].progress`. A start is one
list of phases without a gap: each begins where the one before it ends, and they add up to the total. Those of the stage
`Prepare` are the Job's, those of `Serve` the serving pod's. What runs side by side shares the time; how long each was
at it is in `busyMilliseconds`.

The worker's own are exact to the millisecond, by its clock. Those of the operator come from times that Kubernetes
writes, to the second. Some are absent where nothing had to be done: a second start neither compiles nor shards.

"""
CLEANUP = """
## Of clean-up
The Job that removes the artifacts of a NeuronModel with `retention: Delete` is in no start; its report names:

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
