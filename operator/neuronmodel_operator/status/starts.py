"""Starts: their causes, what is known of their pods, and how they ended; timeline.py computes their phases.

A running start is stored in `status.starts[0]`: what it records of pods and Jobs that are gone stays as it was written.
A start that has ended is not changed any more, except that what its worker reports late is added.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from neuronmodel_api.phases import WITHOUT_POD, StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTES, Report, Stage
from neuronmodel_api.status import (
    CacheResult,
    Cause,
    DevicesStatus,
    Disk,
    Outcome,
    RecordedPhase,
    SourceTransfer,
    Start,
    StartNote,
)
from neuronmodel_operator.decide.artifacts import PreparedArtifacts
from neuronmodel_operator.decide.changes import CHANGES, TARGET_ID, is_unrecorded, open_start, target_id
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.failed_attempts import attempt_notes, is_attempts_note
from neuronmodel_operator.decide.failures import end_reason
from neuronmodel_operator.decide.network_source import is_of_source
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.instance_type import instance_type
from neuronmodel_operator.state.annotations import Change
from neuronmodel_operator.state.objects import Ended, PodView
from neuronmodel_operator.status.blocked import blocked_spans
from neuronmodel_operator.status.slower import with_note
from neuronmodel_operator.status.timeline import (
    MILLISECOND,
    Span,
    offset,
    phases,
    pull_duration,
    recorded_span,
)
from neuronmodel_operator.status.transfers import total_transfer

KUBERNETES_RESOLUTION: Final = timedelta(seconds=1)
KEPT_STARTS: Final = 5
KEPT_ATTEMPTS: Final = 5
"""The most attempts that a start keeps in detail; earlier ones are combined into one phase."""
MAX_PHASES: Final = 128
"""The most phases of a start that the definition allows."""


# What is known of a pod.


def pod_spans(
    children: Children,
    pod: PodView,
    stage: Stage,
    attempt: int,
    *,
    restarted: bool = False,
    until: datetime | None = None,
) -> list[Span]:
    """Returns what is known of a pod so far. With `restarted`, only from the start of its container on. `until` is when
    an unfinished wait was interrupted, possibly for good."""
    spans: list[Span] = []
    report = children.report(pod)

    def known(name: str, start: datetime | None, end: datetime | None) -> None:
        if start and end:
            spans.append(Span(stage, attempt, name, start, max(start, end)))
        elif start and until and start < until and not pod.has_ended:
            spans.append(Span(stage, attempt, name, start, until))

    if not restarted:
        known(StartPhase.QUEUED, pod.created_at, pod.scheduled_at)
        pulled_at = _pull_start(children, pod)
        known(StartPhase.STARTING, pod.scheduled_at, pulled_at or pod.started_at)
        known(StartPhase.IMAGE_PULLED, pulled_at, pod.started_at)
    if report:
        known(StartPhase.BOOTED, pod.started_at, report.started_at)
        spans += [
            Span(
                stage,
                attempt,
                phase.name,
                phase.started_at,
                phase.started_at + phase.milliseconds * MILLISECOND,
                phase.busy_milliseconds,
                phase.bytes,
            )
            for phase in report.phases
        ]
    return spans


def _pull_start(children: Children, pod: PodView) -> datetime | None:
    """Returns when the image pull began: the container is created right after it, so the pull ends when the container
    starts."""
    if pod.started_at is None or pod.scheduled_at is None or pod.run > 0:
        return None
    durations = (pull_duration(event.message) for event in children.events_about(pod, "Pulled"))
    duration = next((d for d in durations if d is not None), None)
    return None if duration is None else max(pod.started_at - duration, pod.scheduled_at)


# One start.


@dataclass(frozen=True)
class StartUpdate:
    """Computes the starts in one pass."""

    s: Situation
    blocked_by: str | None
    """The reason of Ready, if nothing proceeds until somebody acts."""

    def begin(self, change: Change) -> Start:
        return Start(
            id=target_id(self.s.asked),
            cause=change.cause or Cause.SPEC_CHANGED,
            outcome=Outcome.RUNNING,
            started_at=change.observed_at,
            strategy=self.s.artifacts.strategy,
            instance_type=self._instance_type,
        )

    def begin_run(self, pod: PodView) -> Start:
        restarted = pod.run > 0
        origin = pod.started_at if restarted and pod.started_at else pod.created_at
        return Start(
            id=pod.run_id,
            cause=Cause.CONTAINER_RESTARTED if restarted else Cause.POD_REPLACED,
            outcome=Outcome.RUNNING,
            pod_name=pod.name,
            node_name=pod.node,
            started_at=origin,
            strategy=self.s.artifacts.strategy,
            cache=CacheResult.HIT,
            instance_type=self._instance_type,
        )

    @property
    def _instance_type(self) -> str | None:
        return instance_type(self.s.asked.spec) or None

    def advance(self, start: Start, pod: PodView | None) -> Start:
        """Returns the running start with everything that is known now."""
        own = self._serve_attempt(start, pod) if pod else 0
        start = self._named(start, pod) if pod else start
        found = _phases(start, self._spans(start, pod, own))
        return start.model_copy(
            update={"phases": found, "cache": self._cache(start, found), **self._load_details(start, pod)}
        )

    def finish(self, start: Start, pod: PodView, ready_at: datetime) -> Start:
        own = self._serve_attempt(start, pod)
        report = self.s.children.report(pod)
        start = self._named(start, pod)
        ready_at = max(ready_at, start.started_at)
        done = report.ready_at if report and report.ready_at else pod.ready_at or ready_at
        announced = Span(Stage.SERVE, own, StartPhase.ANNOUNCED, done, ready_at)
        found = _phases(start, [*self._spans(start, pod, own, ready_at), announced], ready_at)
        return start.model_copy(
            update={
                "outcome": Outcome.READY,
                "reason": None,
                "ready_at": ready_at,
                "total_milliseconds": offset(start.started_at, ready_at),
                "phases": found,
                "cache": self._cache(start, found) or CacheResult.HIT,
                **self._load_details(start, pod),
                "source": self._source(start, pod),
            }
        )

    def fail(self, start: Start, reason: str, end: datetime, pod: PodView | None = None) -> Start:
        own = self._serve_attempt(start, pod) if pod else 0
        start = self._named(start, pod) if pod else start
        spans = self._spans(start, pod, own, end)
        # The end is rounded down to a second, the worker's times are not; a node's clock may be ahead of ours.
        known = [span.end for span in spans if span.end <= self.s.now] if pod else []
        end = max([end, start.started_at, *known])
        return start.model_copy(
            update={
                "outcome": Outcome.FAILED,
                "reason": reason,
                "total_milliseconds": offset(start.started_at, end),
                "phases": _phases(start, spans, end),
                "disk": self._disk(start, pod),
                "source": self._source(start, pod),
                "devices": self._devices(start, pod),
                "notes": self._notes(start, pod),
            }
        )

    def _named(self, start: Start, pod: PodView) -> Start:
        return start.model_copy(update={"id": pod.run_id, "pod_name": pod.name, "node_name": pod.node})

    def _serve_attempt(self, start: Start, pod: PodView) -> int:
        """Returns the number of the serving attempt: a worker that found its artifacts missing is followed by another
        in the same start, or runs again and finds them."""
        first: dict[int, datetime] = {}
        for phase in start.phases:
            if phase.stage is Stage.SERVE and phase.name not in WITHOUT_POD:
                first.setdefault(phase.attempt, phase.started_at)
        begun = pod.started_at if _runs_again(start, pod) else pod.created_at
        latest = max(first, default=1)
        return latest + 1 if begun and first.get(latest, begun) < begun else latest

    def _spans(self, start: Start, pod: PodView | None, serve_attempt: int, end: datetime | None = None) -> list[Span]:
        restarted = start.cause is Cause.CONTAINER_RESTARTED and serve_attempt == 1
        restarted = restarted or (pod is not None and serve_attempt > 1 and _runs_again(start, pod))
        blocked = blocked_spans(self.s, start, self.blocked_by, end)
        until = blocked[-1].start if blocked else None
        live = self._prepare_spans(start, until)
        if pod:
            live += pod_spans(self.s.children, pod, Stage.SERVE, serve_attempt, restarted=restarted, until=until)
        spans = after_prepare(_with_recorded(start, live))
        return [*spans, *self._former_worker(start, spans), *blocked]

    def _prepare_spans(self, start: Start, until: datetime | None) -> list[Span]:
        earliest = start.started_at.replace(microsecond=0)
        found: list[Span] = []
        for job in self.s.artifacts.own_jobs:
            for pod in self.s.children.pods_of(job):
                end = pod.ended.finished_at if pod.ended else None
                if pod.created_at >= earliest or end is None or end > start.started_at:
                    found += pod_spans(self.s.children, pod, Stage.PREPARE, job.attempt, until=until)
        return found

    def _former_worker(self, start: Start, spans: list[Span]) -> list[Span]:
        """Returns an empty span that names the gap after it, while the worker of the former spec has to end first."""
        recorded = next((p for p in start.phases if p.name == StartPhase.PREVIOUS_STOPPED), None)
        if recorded:
            return [
                Span(
                    Stage.SERVE, recorded.attempt, StartPhase.PREVIOUS_STOPPED, recorded.started_at, recorded.started_at
                )
            ]
        s = self.s
        former = [pod for pod in s.children.serve_pods if pod not in s.children.current_pods and not pod.has_ended]
        if start.cause not in CHANGES or not former or not s.artifacts.is_current or s.children.current_pods:
            return []
        since = max([start.started_at, *(span.end for span in spans)])
        attempt = 1 + max((span.attempt for span in spans if span.stage is Stage.SERVE), default=0)
        return [Span(Stage.SERVE, attempt, StartPhase.PREVIOUS_STOPPED, since, since)]

    def _cache(self, start: Start, found: Sequence[RecordedPhase]) -> CacheResult | None:
        """`found` are the phases of this pass: those of `prepare` may never have been recorded before, where the
        operator was away while it ran."""
        prepared = any(phase.stage is Stage.PREPARE and phase.name not in WITHOUT_POD for phase in found)
        if self.s.artifacts.prepared is None or self.s.artifacts.rejection or not (prepared or start.cause in CHANGES):
            return start.cache
        return CacheResult(self.s.artifacts.prepared.result.cache) if prepared else CacheResult.HIT

    def _load_details(self, start: Start, pod: PodView | None) -> dict[str, object]:
        """Returns the fields of a start other than its phases: what was loaded, from where, and how."""
        report = self.s.children.report(pod) if pod else None
        loads = self.s.artifacts.prepared if self.s.artifacts.is_current and not self.s.artifacts.rejection else None
        return {
            "strategy": self.s.artifacts.strategy,
            "tier": (report.tier if report else None) or start.tier,
            "source_content": (loads.result.source_content if loads else None) or start.source_content,
            "disk": self._disk(start, pod),
            "devices": self._devices(start, pod),
            "notes": self._notes(start, pod),
        }

    def _disk(self, start: Start, pod: PodView | None) -> Disk | None:
        disk = (start.disk or Disk()).model_dump()
        for rates in (report.disk for report in self._reports(start, pod) if report.disk):
            disk |= {name: rate for name, rate in rates.model_dump().items() if rate}
        return Disk(**disk) if any(disk.values()) else None

    def _source(self, start: Start, pod: PodView | None) -> SourceTransfer | None:
        """Returns what all pods of the start read of a source on a network. It is written once, as it changes with
        every look until the start has ended."""
        found = [report.source_traffic for report in self._reports(start, pod) if report.source_traffic]
        return total_transfer(found) if found else start.source

    def _devices(self, start: Start, pod: PodView | None) -> DevicesStatus | None:
        report = self.s.children.report(pod) if pod else None
        if report is None or report.devices is None:
            return start.devices
        found = report.devices
        return DevicesStatus(
            count=found.count,
            cores=found.cores,
            logical_neuron_core_config=found.logical_core_config,
            driver_version=found.driver,
            versions=found.versions,
        )

    def _notes(self, start: Start, pod: PodView | None) -> tuple[str, ...]:
        return merged_notes(start.notes, self._reports(start, pod), attempt_notes(self.s, start.notes))

    def _reports(self, start: Start, pod: PodView | None) -> list[Report]:
        """Returns the reports of `prepare` that belong to the start, and that of the worker."""
        prepared = [
            self.s.children.report(p) for job in self.s.artifacts.own_jobs for p in self.s.children.pods_of(job)
        ]
        found = [r for r in prepared if r and (r.ended_at is None or r.ended_at > start.started_at)]
        own = self.s.children.report(pod) if pod else None
        return [*found, own] if own else found


def merged_notes(
    kept: Sequence[str], reports: Iterable[Report], attempts: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Returns notes on failed attempts (None: those in `kept`), then the latest note of each reason, limited to the
    latest reasons."""
    if attempts is None:
        attempts = [note for note in kept if is_attempts_note(note)]
    notes = {StartNote.read(note).reason: note for note in kept if not is_attempts_note(note)}
    reported = (StartNote(note.reason, note.message) for report in reports for note in report.notes)
    notes |= {note.reason: str(note) for note in reported}
    return (*attempts, *notes.values())[-MAX_NOTES:]


def _with_recorded(start: Start, live: list[Span]) -> list[Span]:
    """Combines recorded and current spans: recorded ones are kept for pods that are gone or report less than before."""
    recorded: dict[tuple[Stage, int], list[Span]] = {}
    for phase in start.phases:
        if phase.name not in WITHOUT_POD:
            recorded.setdefault((phase.stage, phase.attempt), []).append(recorded_span(phase))
    by_unit: dict[tuple[Stage, int], list[Span]] = {}
    for span in live:
        by_unit.setdefault((span.stage, span.attempt), []).append(span)
    units = recorded.keys() | by_unit.keys()
    chosen = (max(by_unit.get(unit, []), recorded.get(unit, []), key=_num_names) for unit in units)
    return [span for spans in chosen for span in spans]


def after_prepare(spans: list[Span]) -> list[Span]:
    """Moves spans of serving pods to the end of `prepare`: a pod created right after it appears to be older, as
    Kubernetes rounds times down to the second."""
    ended = max((span.end for span in spans if span.stage is Stage.PREPARE), default=None)

    def moved(moment: datetime) -> datetime:
        return ended if ended and timedelta(0) < ended - moment < KUBERNETES_RESOLUTION else moment

    return [
        replace(span, start=moved(span.start), end=moved(span.end)) if span.stage is Stage.SERVE else span
        for span in spans
    ]


def _num_names(spans: list[Span]) -> int:
    """Returns the number of distinct phases; of equal ones `max` takes the first, which are the current ones."""
    return len({span.name for span in spans})


def _phases(start: Start, spans: Sequence[Span], end: datetime | None = None) -> tuple[RecordedPhase, ...]:
    """Returns the phases of a start, limited in number: a `prepare` that fails for days, or workers that reject its
    results, must not fill the status."""
    for kept in range(KEPT_ATTEMPTS, 0, -1):
        recent = _recent(spans, kept)
        found = phases(start.started_at, recent, end, first_gap=_first_gap(start, is_cut=len(recent) < len(spans)))
        if len(found) <= MAX_PHASES:
            break
    return found


def _first_gap(start: Start, *, is_cut: bool) -> str:
    """Returns the name of the first gap: attempts that are no longer recorded are combined into one wait."""
    was_cut = bool(start.phases) and start.phases[0].name == StartPhase.BACKED_OFF
    return StartPhase.BACKED_OFF if is_cut or was_cut else StartPhase.RECONCILED


def _recent(spans: Sequence[Span], kept: int) -> list[Span]:
    of_pods = [s for s in spans if s.name != StartPhase.BLOCKED]
    latest = {stage: max((s.attempt for s in of_pods if s.stage is stage), default=0) for stage in Stage}
    return [s for s in spans if s.name == StartPhase.BLOCKED or s.attempt > latest[s.stage] - kept]


# All starts.


def updated_starts(s: Situation, change: Change, blocked_by: str | None) -> tuple[Start, ...]:
    """Returns the last five starts, newest first. `change` is what requested the present state, `blocked_by` the reason
    of Ready if nothing proceeds until somebody acts."""
    starts = s.asked.status.starts
    update = StartUpdate(s, blocked_by)
    started = open_start(starts)
    closed = starts[1:] if started else starts
    if started and _began_nothing(s.artifacts, started, closed, change):
        started = None
    if s.asked.replicas == 0:
        return (update.fail(started, Reason.STOPPED, s.now), *closed)[:KEPT_STARTS] if started else starts
    newest: list[Start] = []
    if is_unrecorded(s.asked, change):
        if started:
            newest = [update.fail(started, Reason.SUPERSEDED, change.observed_at)]
        newest = [*_advanced(update, update.begin(change)), *newest]
    elif started:
        newest = _advanced(update, started)
    current = tuple(_with_late_report(update, start) for start in (*newest, *closed))
    return _compared(starts, _with_runs(update, current)[:KEPT_STARTS])


def _compared(before: Sequence[Start], starts: tuple[Start, ...]) -> tuple[Start, ...]:
    """Compares each start that has ended well in this pass with those before it. It is done once, as what is usual
    changes with every start; again where its worker reports late what it loaded from."""
    known = {start.id: start for start in before}

    def is_news(start: Start) -> bool:
        former = known.get(start.id)
        return former is None or former.outcome is not Outcome.READY or former.tier != start.tier

    return tuple(
        with_note(start, starts[place + 1 :]) if is_news(start) else start for place, start in enumerate(starts)
    )


def _began_nothing(artifacts: PreparedArtifacts, started: Start, closed: Sequence[Start], change: Change) -> bool:
    """Whether a change began no start: what was prepared for it already serves, by the worker of an earlier change,
    which has a start of its own. Without one, `started` is that of the same change, observed twice: its Deployment was
    written, and the answer, or the status after it, was lost."""
    is_without_pod = started.cause is Cause.SPEC_CHANGED and started.id.startswith(TARGET_ID)
    is_of_earlier = change.observed_at < started.started_at
    is_recorded = any(start.started_at >= change.observed_at for start in closed)
    return is_without_pod and artifacts.is_current and is_of_earlier and is_recorded


def _with_late_report(update: StartUpdate, start: Start) -> Start:
    """Adds what came late: the phases of a worker whose report did not arrive before it was believed without one, and
    the notes of one that answers and still finds that there is no space for a copy for the next start."""
    if start.outcome is not Outcome.READY or start.ready_at is None:
        return start
    children = update.s.children
    pod = next((pod for pod in children.current_pods if pod.run_id == start.id), None)
    report = children.report(pod) if pod else None
    if pod is None or report is None:
        return start
    if start.tier is None and report.tier is not None and report.ready_at is not None:
        start = update.finish(start, pod, start.ready_at)
    # What a worker finds out about the source's server later is the condition's: it passes, and is of no start.
    notes = tuple(note for note in report.notes if not is_of_source(note.reason))
    return start.model_copy(update={"notes": merged_notes(start.notes, [report.model_copy(update={"notes": notes})])})


def _advanced(update: StartUpdate, started: Start) -> list[Start]:
    """Returns the updated start, preceded by the following one if it ended by a crash or a lost pod."""
    s = update.s
    if rejection := s.artifacts.rejection:
        # Its container may run several times meanwhile; the first run that rejected the artifacts is recorded.
        is_known = started.reason and rejection.pod and _is_earlier_run(started, rejection.pod)
        updated = update.advance(started, None if is_known else rejection.pod)
        return [updated.model_copy(update={"reason": rejection.reason})]
    if not s.artifacts.is_current:
        return [update.advance(started, None)]
    pod = _subject(s, started)
    if pod is None:
        return [_waiting(update, started)]
    ran_before = _is_earlier_run(started, pod) and not started.reason
    if ran_before or (pod.run > 0 and not started.id.startswith(f"{pod.uid}/")):
        return [update.fail(started, _crash_reason(s.children, pod), _crashed_at(s, pod))]
    if pod in s.ready_pods:
        return [update.finish(started, pod, s.now)]
    if pod.ended:
        return [update.fail(started, _crash_reason(s.children, pod), _crashed_at(s, pod), pod)]
    return [update.advance(started, pod)]


def _is_earlier_run(start: Start, pod: PodView) -> bool:
    """Whether the start is that of a former run of this pod."""
    return start.id != pod.run_id and start.id.startswith(f"{pod.uid}/")


def _runs_again(start: Start, pod: PodView) -> bool:
    """Whether an earlier run in this start, of this pod or another, rejected the artifacts, and the container has been
    restarted."""
    return start.reason is not None and pod.run > 0


def _waiting(update: StartUpdate, started: Start) -> Start:
    """Returns the start while its pod is gone, or has not been created."""
    s = update.s
    has_pod = not started.id.startswith(TARGET_ID) and started.reason is None
    if has_pod and s.children.current_pods:
        return update.fail(started, Reason.POD_REPLACED, s.children.current_pods[0].created_at)
    return update.advance(started, None)


def _subject(s: Situation, started: Start) -> PodView | None:
    """Returns the pod of a start: its own; for a start without one, the first that is ready, or else the oldest."""
    own = next((pod for pod in s.children.current_pods if started.id.startswith(f"{pod.uid}/")), None)
    if own or not (started.id.startswith(TARGET_ID) or started.reason):
        return own
    candidates = s.ready_pods or s.children.current_pods
    return candidates[0] if candidates else None


def _crash_reason(children: Children, pod: PodView) -> str:
    report = children.former_report(pod) if pod.running_since else children.report(pod) or children.former_report(pod)
    return end_reason(pod.ended or pod.former_end, report)


def _crashed_at(s: Situation, pod: PodView) -> datetime:
    end: Ended | None = pod.ended or pod.former_end
    return end.finished_at if end and end.finished_at else s.now


def _with_runs(update: StartUpdate, starts: tuple[Start, ...]) -> tuple[Start, ...]:
    """Adds starts for container runs that are not recorded yet, oldest first."""
    s = update.s
    if not s.artifacts.is_current:
        return starts
    for pod in s.children.current_pods:
        if open_start(starts):
            break
        begun = update.begin_run(pod)
        if not any(start.id == pod.run_id for start in starts) and _is_recent(begun, starts):
            starts = (*_advanced_run(update, begun, pod), *starts)
    return starts


def _is_recent(begun: Start, starts: Sequence[Start]) -> bool:
    """Whether a run began in the same second as the newest recorded start or later: only five starts are kept, and
    there may be more pods."""
    seconds = [start.started_at.replace(microsecond=0) for start in starts]
    return begun.started_at >= max(seconds, default=begun.started_at) and seconds.count(begun.started_at) < KEPT_STARTS


def _advanced_run(update: StartUpdate, begun: Start, pod: PodView) -> list[Start]:
    if pod.run > 0 and pod.started_at is None:
        return []
    return _advanced(update, begun)
