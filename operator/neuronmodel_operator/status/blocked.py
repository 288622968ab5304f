"""Periods in which a start waits for somebody to solve a problem: its phases `Blocked`.

They are recorded only in the status: while one lasts, the open start has an empty phase at its beginning, and the first
pass that finds it over sets its length. So each period costs two writes, however long it is.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.phases import WITHOUT_POD, StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Stage
from neuronmodel_api.status import Start
from neuronmodel_operator.decide import prepare_attempts
from neuronmodel_operator.decide.artifacts import PreparedArtifacts
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.objects import JobState
from neuronmodel_operator.status.timeline import Span, recorded_span

KEPT_STRETCHES: Final = 8
"""The most periods that a start keeps, the longest ones: a quota that is full again and again must not fill the
status."""


def blocking_reason(status: str, reason: str) -> str | None:
    """Returns the reason of the condition Ready if nothing proceeds until somebody acts; None if not."""
    known = Reason.known(reason)
    return reason if status == "False" and known and known.blocks else None


def blocked_spans(s: Situation, start: Start, blocked_by: str | None, end: datetime | None = None) -> list[Span]:
    """Returns the periods, oldest first. `blocked_by` is the current reason; the period that it belongs to is empty
    while it lasts. If `end` is given, the start is over and no period lasts."""
    recorded = [recorded_span(phase) for phase in start.phases if phase.name == StartPhase.BLOCKED]
    over = [span for span in recorded if span.end > span.start]
    lasting = _lasting(s, start, recorded)
    if lasting and (end or lasting.reason != blocked_by):
        over.append(replace(lasting, end=max(lasting.start, min(end or s.now, s.now))))
        lasting = None
    if lasting is None and blocked_by and end is None:
        lasting = _begun_at(s.artifacts, start, s.now, blocked_by)
    return [*_longest(over), *([lasting] if lasting else [])]


def _lasting(s: Situation, start: Start, recorded: Sequence[Span]) -> Span | None:
    """Returns the period that lasts, as the status records it. If a worker was running when it began, or an earlier
    version wrote the status, only the condition has it."""
    last = recorded[-1] if recorded else None
    ready = s.asked.status.condition(ConditionType.READY)
    reason = blocking_reason(ready.status, ready.reason) if ready else None
    if last and last.start == last.end:
        return replace(last, reason=last.reason or reason)  # a former definition stores no reason of a phase
    if ready is None or reason is None or start.started_at not in {known.started_at for known in s.asked.status.starts}:
        return None
    since = max(ready.last_transition_time, start.started_at, *(span.end for span in recorded))
    return _begun_at(s.artifacts, start, since, reason)


def _begun_at(artifacts: PreparedArtifacts, start: Start, moment: datetime, reason: str) -> Span:
    return Span(*_awaited(artifacts, start), StartPhase.BLOCKED, moment, moment, reason=reason)


def _awaited(artifacts: PreparedArtifacts, start: Start) -> tuple[Stage, int]:
    """Returns the stage and attempt that is blocked."""
    job = prepare_attempts.unsettled_job(artifacts)
    if artifacts.prepared and job is None and artifacts.rejection is None:
        served = [
            phase.attempt for phase in start.phases if phase.stage is Stage.SERVE and phase.name not in WITHOUT_POD
        ]
        return Stage.SERVE, max(served, default=1)
    if job and job.state is JobState.ACTIVE:
        return Stage.PREPARE, job.attempt
    return Stage.PREPARE, artifacts.latest_attempt + 1


def _longest(spans: Sequence[Span]) -> list[Span]:
    kept = sorted(spans, key=lambda span: span.end - span.start, reverse=True)[:KEPT_STRETCHES]
    return sorted(kept, key=lambda span: span.start)
