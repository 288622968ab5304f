"""`status.workers` and `status.progress`: how far each worker is, and the one that is least far. Progress moves in
steps of 5 percent and is written at most every 30 seconds."""

from datetime import timedelta
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.report import Progress, Report, SourceTraffic, Stage, State
from neuronmodel_api.status import WaitsFor, WorkerProgress, WorkerState, WorkerStatus
from neuronmodel_operator.decide.failures import running_problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.objects import PodView
from neuronmodel_operator.status.transfers import total_transfer

STEP_PERCENT: Final = 5
WRITE_EVERY: Final = timedelta(seconds=30)
WRITE_WAITS_EVERY: Final = timedelta(seconds=10)
"""When what is waited for has changed."""
_WAITS: Final = {WaitsFor.RATE_LIMIT: "rate-limited", WaitsFor.SOURCE: "retrying"}
_STAGES: Final = {names.COMPONENT_PREPARE: Stage.PREPARE, names.COMPONENT_SERVE: Stage.SERVE}


def workers(s: Situation) -> tuple[WorkerStatus, ...]:
    live = (pod for pod in s.children.pods if pod.component in _STAGES and not pod.has_ended)
    return tuple(_worker(s, pod) for pod in sorted(live, key=lambda pod: pod.name))


def least_far(s: Situation) -> str | None:
    """Returns the phase of the working worker that is least far, with its percentage if known; None if none is
    working."""
    written = {worker.pod_name: worker.progress for worker in workers(s)}
    found = []
    for pod in s.children.pods:
        report, progress = s.children.report(pod), written.get(pod.name)
        if report and progress and pod.running_since and not pod.is_terminating and not _answers(pod):
            done = (progress.stage is Stage.SERVE, len(report.phases), progress.percent or 0, pod.name)
            found.append((done, progress))
    if not found:
        return None
    _, progress = min(found, key=lambda one: one[0])
    text = progress.phase if progress.percent is None else f"{progress.phase} {progress.percent}%"
    return f"{text}, {_WAITS[progress.waits_for]}" if progress.waits_for else text


def _worker(s: Situation, pod: PodView) -> WorkerStatus:
    stage, report = _STAGES[pod.component], s.children.report(pod)
    return WorkerStatus(
        pod_name=pod.name,
        node=pod.node,
        stage=stage,
        state=_state(s, pod, report),
        progress=_progress(s, pod, stage, report, report.progress) if report and report.progress else None,
    )


def _state(s: Situation, pod: PodView, report: Report | None) -> WorkerState:
    if pod.is_terminating or (report and report.state is State.DRAINING):
        return WorkerState.DRAINING
    if pod.ready_at:
        return WorkerState.READY if _answers(pod) else WorkerState.STARTING
    if running_problem(s, pod):
        return WorkerState.FAILED
    return WorkerState.STARTING if pod.running_since else WorkerState.PENDING


def _answers(pod: PodView) -> bool:
    """Whether the worker answers; a Job's pod is ready as soon as it runs, and never does."""
    return pod.ready_at is not None and pod.component == names.COMPONENT_SERVE


def _progress(s: Situation, pod: PodView, stage: Stage, report: Report, progress: Progress) -> WorkerProgress:
    written = next((worker.progress for worker in s.asked.status.workers if worker.pod_name == pod.name), None)
    percent = min(100, progress.done * 100 // progress.total) if progress.total else None
    traffic = report.source_traffic
    waits_for = _waits_for(traffic) if traffic else None
    if written and (written.phase, written.started_at) == (progress.phase, progress.started_at):
        moved = abs((percent or 0) - (written.percent or 0)) >= STEP_PERCENT
        retried = bool(traffic and written.source and traffic.retries != written.source.retries)
        since = s.now - (written.updated_at or written.started_at)
        if since < (WRITE_WAITS_EVERY if written.waits_for != waits_for else WRITE_EVERY):
            return written
        if not moved and not retried and written.waits_for == waits_for:
            return written
    counts_bytes = progress.unit == "Bytes" and bool(progress.done or progress.total)
    return WorkerProgress(
        stage=stage,
        phase=progress.phase,
        started_at=progress.started_at,
        percent=percent,
        updated_at=s.now,
        bytes=progress.done if counts_bytes else None,
        total_bytes=progress.total if counts_bytes else None,
        source=total_transfer([traffic]) if traffic else None,
        waits_for=waits_for,
    )


def _waits_for(traffic: SourceTraffic) -> WaitsFor | None:
    if traffic.is_limited:
        return WaitsFor.RATE_LIMIT
    return WaitsFor.SOURCE if traffic.is_failing else None
