"""The clock of a start: consecutive boundaries, and phases between them.

A phase begins where the previous one ended, whatever the code did in between, so the phases of a run add up to its
duration exactly and no time is unaccounted for. Times are in milliseconds from the worker's first line.

Several threads may be in a phase at the same time. Each phase still extends from the last boundary before its end to
its end: the one that ends first has the wall time so far, the other one the time that it took longer, and
`busy_milliseconds` says how long each was at work.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from neuronmodel_api.phases import StartPhase
from neuronmodel_api.report import (
    MAX_NOTE,
    MAX_NOTES,
    Devices,
    DiskRates,
    Failure,
    Note,
    PhaseReport,
    Progress,
    Report,
    Result,
    Sealing,
    SourceTraffic,
    Stage,
    State,
    Tier,
)

NANOSECONDS_A_MILLISECOND = 1_000_000

REPEATED = frozenset({StartPhase.DEVICES_AWAITED})
"""Phases of which several in a row are merged into one: how often something is tried is not known in advance."""

MonotonicClock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class FirstLine:
    """One moment on two clocks, in nanoseconds: monotonic time for durations, and the epoch to compare with other
    clocks."""

    monotonic: int
    epoch: int

    @classmethod
    def now(cls) -> "FirstLine":
        return cls(time.monotonic_ns(), time.time_ns())


@dataclass
class RunningPhase:
    """The phase in progress. Any thread may update it."""

    name: str
    unit: str
    total: int | None
    start: int = 0
    """In milliseconds from the first line: the last boundary, or when it began if another phase was in progress."""
    done: int = 0
    before: int = 0
    """How much of `done` existed before the phase began."""
    busy_milliseconds: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def advance(self, count: int) -> None:
        """Adds `count` to what is done."""
        with self._lock:
            self.done += count

    def reach(self, done: int, total: int | None = None) -> None:
        """Sets what is done, and the total if it is given."""
        with self._lock:
            self.done = done
            self.total = total if total is not None else self.total

    def found(self, done: int) -> None:
        """Counts what exists already: it is part of the progress, but not of the bytes that this phase moved."""
        with self._lock:
            self.done = self.before = done

    def was_busy(self, seconds: float) -> None:
        """Sets the busy time, if that is known more exactly than from the phase's start and end."""
        self.busy_milliseconds = round(seconds * 1000)


@dataclass(frozen=True, slots=True)
class _FinishedPhase:
    """A phase that has ended, at `end` milliseconds from the first line."""

    name: str
    end: int
    bytes: int | None
    busy_milliseconds: int | None


class StartClock:
    """Everything that a worker reports of its own run. `snapshot` may be called from any thread at any time."""

    def __init__(
        self,
        stage: Stage,
        first_line: FirstLine,
        *,
        pod_uid: str = "",
        spec_hash: str = "",
        monotonic: MonotonicClock = time.monotonic_ns,
    ) -> None:
        self._origin = first_line.monotonic
        self._started_at = datetime.fromtimestamp(first_line.epoch // NANOSECONDS_A_MILLISECOND / 1000, UTC)
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._ended: list[_FinishedPhase] = []
        self._current: list[RunningPhase] = []
        self._traffic: Callable[[], SourceTraffic | None] = lambda: None
        self._report = Report(
            pod_uid=pod_uid, spec_hash=spec_hash, stage=stage, state=State.RUNNING, started_at=self._started_at
        )

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "Bytes") -> Iterator[RunningPhase]:
        """Measures a phase, from the last boundary to the end of this context, even if it fails. Each thread may be in
        one phase at a time."""
        with self._lock:
            start = self._now() if self._current else self._boundary()
            self._current.append(phase := RunningPhase(name, unit, total, start))
        try:
            yield phase
        finally:
            self._end(phase)

    def _end(self, phase: RunningPhase) -> None:
        moved = (phase.done - phase.before or None) if phase.unit == "Bytes" else None
        with self._lock:
            end, busy = self._now(), phase.busy_milliseconds
            if busy is None and phase.start != self._boundary():
                busy = end - phase.start
            self._current.remove(phase)
            if phase.name in REPEATED and self._ended and self._ended[-1].name == phase.name:
                self._ended.pop()
            self._ended.append(_FinishedPhase(phase.name, end, moved, busy))

    def _boundary(self) -> int:
        return self._ended[-1].end if self._ended else 0

    @property
    def boundary(self) -> int:
        """Where the next phase begins, in milliseconds from the first line."""
        with self._lock:
            return self._boundary()

    def fold(self, since: int, name: str) -> None:
        """Merges all phases since the boundary `since` into one: the work done in them was lost."""
        with self._lock:
            self._ended = [ended for ended in self._ended if ended.end <= since]
            self._ended.append(_FinishedPhase(name, self._now(), None, None))

    @property
    def state(self) -> State:
        return self._report.state

    def found(self, result: Result) -> None:
        self._update(result=result)

    def measured(self, disk: DiskRates) -> None:
        self._update(disk=disk)

    def found_devices(self, devices: Devices) -> None:
        self._update(devices=devices)

    def served_from(self, tier: Tier) -> None:
        self._update(tier=tier)

    def note(self, reason: str, message: str, instead_of: Iterable[str] = ()) -> None:
        """Adds a note on something that stops nothing. The latest note of each reason is kept, for the latest few
        reasons; those of `instead_of` go."""
        text = message if len(message) <= MAX_NOTE else message[: MAX_NOTE - 1] + "…"
        gone = {reason, *instead_of}
        with self._lock:
            others = [note for note in self._report.notes if note.reason not in gone]
            self._update(notes=(*others, Note(reason=reason, message=text))[-MAX_NOTES:])

    def clear_notes(self, reasons: Iterable[str]) -> None:
        """Removes the notes of these reasons: what they say holds no more."""
        gone = frozenset(reasons)
        with self._lock:
            self._update(notes=tuple(note for note in self._report.notes if note.reason not in gone))

    def reads_from(self, traffic: Callable[[], SourceTraffic | None]) -> None:
        """Sets what says how much was asked of a source on a network so far."""
        self._traffic = traffic

    def found_revision(self, commit: str) -> None:
        self._update(latest_revision=commit)

    def sealing(self, sealing: Sealing) -> None:
        self._update(sealing=sealing)

    def ready(self) -> None:
        self._update(state=State.READY, ready_at=self._at(self._close()))

    def draining(self) -> None:
        self._update(state=State.DRAINING)

    def succeeded(self) -> None:
        self._finish(State.SUCCEEDED)

    def failed(self, failure: Failure) -> None:
        self._finish(State.FAILED, failure)

    def _finish(self, state: State, failure: Failure | None = None) -> None:
        started = self._report.ready_at is None
        end = self._close() if started else self._now()
        self._update(state=state, failure=failure, ended_at=self._at(end))

    def _close(self) -> int:
        """Extends the last phase to this moment, so that no part of a start lies after it. Returns the moment."""
        with self._lock:
            now = self._now()
            if self._ended:
                last = self._ended.pop()
                self._ended.append(_FinishedPhase(last.name, now, last.bytes, last.busy_milliseconds))
            return now

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._report = self._report.model_copy(update=changes)

    def snapshot(self) -> Report:
        with self._lock:
            return self._report.model_copy(
                update={
                    "phases": tuple(self._phases()),
                    "progress": self._progress(),
                    "source_traffic": self._traffic(),
                }
            )

    def _phases(self) -> Iterator[PhaseReport]:
        start = 0
        for ended in self._ended:
            yield PhaseReport(
                name=ended.name,
                started_at=self._at(start),
                milliseconds=ended.end - start,
                busy_milliseconds=ended.busy_milliseconds,
                bytes=ended.bytes,
            )
            start = ended.end

    def _progress(self) -> Progress | None:
        """Returns the progress of the phase with the most bytes to move, which says most about how far the start is."""
        with self._lock:
            phase = max(self._current, key=lambda each: (each.unit == "Bytes", each.total or 0), default=None)
        if phase is None:
            return None
        return Progress(
            phase=phase.name, started_at=self._at(phase.start), done=phase.done, total=phase.total, unit=phase.unit
        )

    def _now(self) -> int:
        return (self._monotonic() - self._origin) // NANOSECONDS_A_MILLISECOND

    def _at(self, milliseconds: int) -> datetime:
        return self._started_at + timedelta(milliseconds=milliseconds)
