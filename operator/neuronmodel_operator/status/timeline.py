"""A period of time as a list of boundaries whose gaps are its phases: arithmetic, independent of Kubernetes.

Kubernetes' times are rounded down to the second; the worker's are precise to the millisecond. Every boundary is
therefore clamped to the one before it, and a gap between two known spans is named for what was waited for. So the
phases add up to the total by construction, whatever the boundaries are.

Where spans overlap, the worker's own take precedence, then blocked periods, then what a pod waited for according to
Kubernetes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from neuronmodel_api.phases import WAITS, StartPhase
from neuronmodel_api.report import Stage
from neuronmodel_api.status import RecordedPhase, Start

OF_KUBERNETES: Final = frozenset({StartPhase.QUEUED, StartPhase.STARTING, StartPhase.IMAGE_PULLED})
"""Phases that a pod goes through until its container runs."""
MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Span:
    """A period of time that something is known about."""

    stage: Stage
    attempt: int
    name: str
    start: datetime
    end: datetime
    busy_milliseconds: int | None = None
    bytes: int | None = None
    reason: str | None = None


def recorded_span(phase: RecordedPhase) -> Span:
    return Span(
        phase.stage,
        phase.attempt,
        phase.name,
        phase.started_at,
        phase.started_at + phase.milliseconds * MILLISECOND,
        phase.busy_milliseconds,
        phase.bytes,
        phase.reason,
    )


def load_milliseconds(start: Start) -> int | None:
    """Returns the duration of a completed start without the time that it waited for somebody or for a retry; None while
    it runs."""
    if start.total_milliseconds is None:
        return None
    return start.total_milliseconds - sum(phase.milliseconds for phase in start.phases if phase.name in WAITS)


def phases(
    origin: datetime, spans: Iterable[Span], end: datetime | None = None, *, first_gap: str = StartPhase.RECONCILED
) -> tuple[RecordedPhase, ...]:
    """Returns the spans, each starting no earlier than the previous one ended, and the gaps between them. They add up
    to the time from `origin` to the last boundary, which is `end` if given. `first_gap` names the time before the first
    span."""
    found: list[RecordedPhase] = []
    cursor, limit = 0, offset(origin, end) if end else None
    previous: Span | None = None
    ordered = sorted(_apart(spans), key=lambda span: (span.start, span.end))
    for place, span in enumerate(ordered):
        start, stop = (_clamp(offset(origin, moment), cursor, limit) for moment in (span.start, span.end))
        if start > cursor:
            # A blocked period interrupts a wait but does not end it.
            following = next((later for later in ordered[place:] if later.name != StartPhase.BLOCKED), span)
            name = _gap_name(previous, following) if previous else first_gap
            found.append(_phase(origin, cursor, start, _gap(following, name)))
        found.append(_phase(origin, start, max(start, stop), span))
        cursor = max(start, stop)
        previous = previous if span.name == StartPhase.BLOCKED else span
    if limit is not None and limit > cursor:
        last = previous or Span(Stage.SERVE, 1, StartPhase.UNACCOUNTED, origin, origin)
        found.append(_phase(origin, cursor, limit, _gap(last, _last_gap_name(previous))))
    return _joined(found)


def _apart(spans: Iterable[Span]) -> list[Span]:
    known = list(spans)
    own = [span for span in known if span.name not in OF_KUBERNETES and span.name != StartPhase.BLOCKED]
    blocked = [piece for span in known if span.name == StartPhase.BLOCKED for piece in _without(span, own)]
    waits = [piece for span in known if span.name in OF_KUBERNETES for piece in _without(span, blocked)]
    return [*own, *blocked, *waits]


def _without(span: Span, others: Iterable[Span]) -> list[Span]:
    pieces = [span]
    for other in others:
        pieces = [rest for piece in pieces for rest in _rest(piece, other)]
    return pieces


def _rest(piece: Span, other: Span) -> list[Span]:
    """Returns what remains of a span before and after the other."""
    if other.end <= piece.start or piece.end <= other.start:
        return [piece]
    before = [replace(piece, end=other.start)] if piece.start < other.start else []
    after = [replace(piece, start=other.end)] if other.end < piece.end else []
    return [*before, *after]


def _gap(span: Span, name: str) -> Span:
    return replace(span, name=name, busy_milliseconds=None, bytes=None, reason=None)


def offset(origin: datetime, moment: datetime) -> int:
    """Returns the offset in milliseconds."""
    return max(0, (moment - origin) // MILLISECOND)


def _clamp(offset: int, low: int, high: int | None) -> int:
    return max(low, offset if high is None else min(offset, high))


def _gap_name(before: Span, after: Span) -> str:
    if before.name == StartPhase.PREVIOUS_STOPPED:
        return StartPhase.PREVIOUS_STOPPED
    if (before.stage, before.attempt) == (after.stage, after.attempt):
        return StartPhase.UNACCOUNTED
    hands_over = before.stage is Stage.PREPARE and after.stage is Stage.SERVE
    return StartPhase.HANDED_OVER if hands_over else StartPhase.BACKED_OFF


def _last_gap_name(before: Span | None) -> str:
    return (
        StartPhase.PREVIOUS_STOPPED if before and before.name == StartPhase.PREVIOUS_STOPPED else StartPhase.UNACCOUNTED
    )


def _phase(origin: datetime, start: int, end: int, span: Span) -> RecordedPhase:
    milliseconds = end - start
    busy = span.busy_milliseconds if span.busy_milliseconds is not None else milliseconds
    return RecordedPhase(
        stage=span.stage,
        attempt=span.attempt,
        name=span.name,
        reason=span.reason,
        started_at=origin + start * MILLISECOND,
        milliseconds=milliseconds,
        busy_milliseconds=span.busy_milliseconds,
        bytes=span.bytes,
        bytes_per_second=span.bytes * 1000 // busy if span.bytes and busy > 0 else None,
    )


def _joined(found: Sequence[RecordedPhase]) -> tuple[RecordedPhase, ...]:
    """Joins adjacent phases of the same name; an empty marker of a wait that did not happen is dropped."""
    joined: list[RecordedPhase] = []
    for phase in found:
        last = joined[-1] if joined else None
        if last and _is_of_one_kind(last, phase):
            joined[-1] = _sum(last, phase)
        else:
            joined.append(phase)
    return tuple(joined)


def _is_of_one_kind(one: RecordedPhase, other: RecordedPhase) -> bool:
    return (one.stage, one.attempt, one.name, one.reason) == (other.stage, other.attempt, other.name, other.reason)


def _sum(first: RecordedPhase, second: RecordedPhase) -> RecordedPhase:
    def add(one: int | None, other: int | None) -> int | None:
        return None if one is None and other is None else (one or 0) + (other or 0)

    milliseconds = first.milliseconds + second.milliseconds
    busy = None
    if first.busy_milliseconds is not None or second.busy_milliseconds is not None:
        busy = sum(p.busy_milliseconds if p.busy_milliseconds is not None else p.milliseconds for p in (first, second))
    size = add(first.bytes, second.bytes)
    divisor = milliseconds if busy is None else busy
    return first.model_copy(
        update={
            "milliseconds": milliseconds,
            "busy_milliseconds": busy,
            "bytes": size,
            "bytes_per_second": size * 1000 // divisor if size and divisor > 0 else None,
        }
    )


# The kubelet's own figure.


_PULLED_IN: Final = re.compile(r"\bin ([0-9a-zµ.]+)(?: \(([0-9a-zµ.]+) including waiting\))?")
_DURATION_PART: Final = re.compile(r"([0-9.]+)(h|ms|m|s|µs|us|ns)")
_UNIT_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "ns": 1e-9}


def pull_duration(message: str) -> timedelta | None:
    """Returns the duration in the kubelet's Pulled event, `… in 793ms (801ms including waiting). …`; None if the image
    was present."""
    found = _PULLED_IN.search(message)
    if found is None or not _DURATION_PART.match(found[1]):
        return None
    parts = _DURATION_PART.findall(found[2] or found[1])
    return timedelta(seconds=sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts))
