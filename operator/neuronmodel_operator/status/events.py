"""The Events of a pass: what changed between two statuses, so that `kubectl describe` shows the history."""

from collections.abc import Iterator
from typing import Final

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.phases import WAITS
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Sealing, SealingState
from neuronmodel_api.status import Condition, NeuronModelStatus, Outcome, Start, StartNote
from neuronmodel_operator.decide.failed_attempts import is_attempts_note
from neuronmodel_operator.decide.refused_writes import write_problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.plan import EventNote
from neuronmodel_operator.status.artifacts import sealings
from neuronmodel_operator.status.timeline import load_milliseconds

_QUIET: Final = frozenset({Reason.SUSPENDED, Reason.SCALED_TO_ZERO, Reason.TERMINATING})
"""Reasons of a False condition that the user requested."""
_REJECTED: Final = frozenset(
    {Reason.SOURCE_CHANGED, Reason.ARTIFACTS_MISSING, Reason.ARTIFACT_DAMAGED, Reason.ARTIFACTS_OUTDATED}
)
"""Reasons of an Unknown condition that deserve a warning: a worker rejected what was prepared."""
_TIERS: Final = {"Source": "the source", "Artifacts": "the artifacts volume", "Scratch": "the scratch volume"}
_CONDITIONS_WITH_EVENTS: Final = (
    ConditionType.SOURCE_RESOLVED,
    ConditionType.ARTIFACTS_READY,
    ConditionType.SCHEDULED,
    ConditionType.LOADED,
    ConditionType.READY,
)


def events(before: NeuronModelStatus, after: NeuronModelStatus) -> tuple[EventNote, ...]:
    known = [
        note
        for kind in _CONDITIONS_WITH_EVENTS
        if (note := _condition_event(before.condition(kind), after.condition(kind)))
    ]
    # The summary repeats what another condition says.
    distinct = {(note.type, note.reason): note for note in reversed(known)}
    update = _update_event(before, after)
    return (*reversed(distinct.values()), *_start_events(before, after), *([update] if update else []))


def _condition_event(before: Condition | None, after: Condition | None) -> EventNote | None:
    if after is None or (before and (before.status, before.reason) == (after.status, after.reason)):
        return None
    if after.status == "False":
        return EventNote("Normal" if after.reason in _QUIET else "Warning", after.reason, after.message)
    if after.status == "Unknown" and after.reason in _REJECTED:
        return EventNote("Warning", after.reason, after.message)
    if after.status == "True" and after.type is not ConditionType.READY:
        return EventNote("Normal", after.reason, after.message)
    return None


def artifact_events(s: Situation, after: NeuronModelStatus) -> tuple[EventNote, ...]:
    """Returns Events about quarantined sets, about a choice of strategy, and about shards that a worker wrote while
    serving."""
    return (*_quarantine_events(s, after), *_choice_events(s.asked.status, after), *_sealing_events(s, after))


def refusal_events(s: Situation, after: NeuronModelStatus) -> Iterator[EventNote]:
    """Returns Events about refused writes that a condition mentions in addition to its own subject; a refusal that is a
    condition's reason has that condition's Event."""
    reasons = {condition.reason for condition in after.conditions if condition.status == "False"}
    for refusal in s.observed.refusals:
        problem = write_problem(refusal)
        then, now = (any(problem.message in c.message for c in status.conditions) for status in (s.asked.status, after))
        if now and not then and problem.reason not in reasons:
            yield EventNote("Warning", problem.reason, problem.message)


def _quarantine_events(s: Situation, after: NeuronModelStatus) -> Iterator[EventNote]:
    """Returns Events about quarantined sets when the condition, which contains the same sentences, first refers to this
    result."""
    if (
        s.artifacts.prepared
        and _is_prepared(after)
        and not (_is_prepared(s.asked.status) and _is_of_one_result(s.asked.status, after))
    ):
        for sentence in s.artifacts.prepared.result.quarantined:
            yield EventNote("Warning", Reason.ARTIFACT_QUARANTINED, sentence)


def _is_prepared(status: NeuronModelStatus) -> bool:
    condition = status.condition(ConditionType.ARTIFACTS_READY)
    return condition is not None and condition.reason == Reason.PREPARED


def _is_of_one_result(before: NeuronModelStatus, after: NeuronModelStatus) -> bool:
    """Whether two statuses refer to the same result. A new result comes after a wait, which the condition shows unless
    no pass ran meanwhile."""
    then, now = before.artifacts, after.artifacts
    return then is not None and now is not None and then.missed == now.missed and then.cache == now.cache


def _choice_events(before: NeuronModelStatus, after: NeuronModelStatus) -> Iterator[EventNote]:
    then, now = before.strategy, after.strategy
    if now and now.inputs and (then is None or (then.in_force, then.reason) != (now.in_force, now.reason)):
        yield EventNote("Normal", Reason.STRATEGY_CHOSEN, f"{now.in_force}: {now.message}")


def _sealing_events(s: Situation, after: NeuronModelStatus) -> Iterator[EventNote]:
    then, now = (status.artifacts.sealing if status.artifacts else None for status in (s.asked.status, after))
    if now is None or now == then:
        return
    known = next((sealing for sealing in sealings(s.children) if sealing.state == now), None)
    if known and known.state is SealingState.SEALED:
        yield EventNote("Normal", Reason.SHARDS_SEALED, _sealed_sentence(known))
    elif known and known.state is SealingState.FAILED:
        yield EventNote(
            "Warning", Reason.SEALING_FAILED, known.message or "The shards were not written; see the worker's log."
        )


def _sealed_sentence(sealing: Sealing) -> str:
    took = ""
    if sealing.started_at and sealing.ended_at:
        took = f" in {(sealing.ended_at - sealing.started_at).total_seconds():.1f} s"
    return f"The worker wrote {sealing.total:,} bytes of shards{took} behind its answers; later starts read them."


def _update_event(before: NeuronModelStatus, after: NeuronModelStatus) -> EventNote | None:
    then, now = (status.condition(ConditionType.UPDATE_AVAILABLE) for status in (before, after))
    if now is None or now.status != "True" or (then and (then.status, then.reason) == (now.status, now.reason)):
        return None
    return EventNote("Normal", now.reason, now.message)


def _start_events(before: NeuronModelStatus, after: NeuronModelStatus) -> tuple[EventNote, ...]:
    known = {(start.started_at, start.outcome) for start in before.starts}
    ended = [s for s in after.starts if s.outcome is Outcome.READY and (s.started_at, s.outcome) not in known]
    loads = tuple(EventNote("Normal", Reason.READY, _load_sentence(start)) for start in reversed(ended))
    return (*_note_events(before, after), *loads)


def _note_events(before: NeuronModelStatus, after: NeuronModelStatus) -> tuple[EventNote, ...]:
    known = {(start.started_at, note) for start in before.starts for note in start.notes}
    fresh = [note for s in reversed(after.starts) for note in s.notes if (s.started_at, note) not in known]
    # A failed attempt was reported by its condition at the time.
    notes = [StartNote.read(note) for note in fresh if not is_attempts_note(note)]
    return tuple(EventNote("Warning", note.reason, note.message) for note in notes)


def _load_sentence(start: Start) -> str:
    seconds = (load_milliseconds(start) or 0) / 1000
    cache = f", cache {start.cache}" if start.cache else ""
    tier = f", from {_TIERS[start.tier]}" if start.tier else ""
    return f"Loaded in {seconds:.1f} s{cache}{tier}, on node {start.node_name} ({start.cause}).{_waits_sentence(start)}"


def _waits_sentence(start: Start) -> str:
    known = []
    for name in WAITS:
        waits = [phase for phase in start.phases if phase.name == name]
        seconds = sum(phase.milliseconds for phase in waits) / 1000
        reasons = ", ".join(dict.fromkeys(phase.reason for phase in waits if phase.reason))
        if seconds:
            known.append(f"{seconds:.1f} s {name}" + (f" ({reasons})" if reasons else ""))
    return f" Not counted: {', '.join(known)}." if known else ""
