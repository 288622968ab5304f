"""The Events of a pass: what changed between two statuses, for `kubectl describe` to tell the story."""

from typing import Final

from neuronmodel_api.status import Condition, ConditionType, NeuronModelStatus, Outcome, Start
from neuronmodel_operator.plan import EventNote

_QUIET: Final = frozenset({"Suspended", "ScaledToZero", "Terminating"})
"""Reasons of a False that the user asked for."""
_REJECTED: Final = frozenset({"SourceChanged", "ArtifactDamaged", "ArtifactsOutdated"})
"""Reasons of an Unknown that are more than waiting: a worker turned down what was prepared."""
_TOLD: Final = (
    ConditionType.SOURCE_RESOLVED,
    ConditionType.ARTIFACTS_READY,
    ConditionType.SCHEDULED,
    ConditionType.LOADED,
    ConditionType.READY,
)


def events(before: NeuronModelStatus, after: NeuronModelStatus) -> tuple[EventNote, ...]:
    told = [note for kind in _TOLD if (note := _of_condition(before.condition(kind), after.condition(kind)))]
    # The summary repeats what another condition has said.
    distinct = {(note.type, note.reason): note for note in reversed(told)}
    update = _of_update(before, after)
    return (*reversed(distinct.values()), *_of_starts(before, after), *([update] if update else []))


def _of_condition(before: Condition | None, after: Condition | None) -> EventNote | None:
    if after is None or (before and (before.status, before.reason) == (after.status, after.reason)):
        return None
    if after.status == "False":
        return EventNote("Normal" if after.reason in _QUIET else "Warning", after.reason, after.message)
    if after.status == "Unknown" and after.reason in _REJECTED:
        return EventNote("Warning", after.reason, after.message)
    if after.status == "True" and after.type is not ConditionType.READY:
        return EventNote("Normal", after.reason, after.message)
    return None


def _of_update(before: NeuronModelStatus, after: NeuronModelStatus) -> EventNote | None:
    then, now = (status.condition(ConditionType.UPDATE_AVAILABLE) for status in (before, after))
    if now is None or now.status != "True" or (then and then.status == "True"):
        return None
    return EventNote("Normal", now.reason, now.message)


def _of_starts(before: NeuronModelStatus, after: NeuronModelStatus) -> tuple[EventNote, ...]:
    told = {(start.started_at, start.outcome) for start in before.starts}
    ended = [s for s in after.starts if s.outcome is Outcome.READY and (s.started_at, s.outcome) not in told]
    return tuple(EventNote("Normal", "Ready", _load_sentence(start)) for start in reversed(ended))


def _load_sentence(start: Start) -> str:
    seconds = (start.total_milliseconds or 0) / 1000
    cache = f", cache {start.cache}" if start.cache else ""
    return f"Loaded in {seconds:.1f} s{cache}, on node {start.node_name} ({start.cause})."
