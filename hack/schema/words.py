"""The pages of docs/reference that are the contract's words: made from the enumerations of neuronmodel_api."""

from collections.abc import Iterable

from neuronmodel_api.reasons import Reason, ReasonUse

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
