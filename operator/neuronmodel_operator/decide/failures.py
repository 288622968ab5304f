"""Problems that keep a scheduled pod from running, read from where Kubernetes reports them, while they last."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from signal import Signals
from typing import Final

from neuronmodel_api import exits, names
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Report
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.crash_logs import gist
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.objects import Ended, PodView
from neuronmodel_operator.wording import moment, shortened

MAX_WORKERS_MESSAGE: Final = 1500
"""The most characters of a worker's failure message: it may end with the last lines of a compiler."""
CRASH_MARGIN: Final = timedelta(seconds=10)
"""Runs never take exactly the same time, and Kubernetes rounds times down to the second."""

_PULL_FAILURES: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG_FAILURES: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_MOUNT_EVENTS: Final = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
_WAITED_FOR_VOLUMES: Final = "Unable to attach or mount volumes"
"""The kubelet alternates between this message and the cause."""
_EXIT_REASONS: Final = {
    exits.NO_ENGINE: Reason.NO_ENGINE,
    exits.NO_SPACE: Reason.ARTIFACTS_VOLUME_FULL,
    exits.TERMINATED: Reason.TERMINATED,
}
"""Reasons for exit codes of a run that left no report."""
_REFUSALS: Final = (
    ("violates podsecurity", Reason.POD_SECURITY_REFUSED),
    ("exceeded quota", Reason.QUOTA_EXCEEDED),
    ("failed quota", Reason.QUOTA_EXCEEDED),
    ("per persistentvolumeclaim", Reason.LIMIT_RANGE_REFUSED),
    ("per container", Reason.LIMIT_RANGE_REFUSED),
    ("per pod", Reason.LIMIT_RANGE_REFUSED),
    ("limit to request ratio", Reason.LIMIT_RANGE_REFUSED),
)


@dataclass(frozen=True)
class Problem:
    """A problem: a reason and a sentence. The reason is a member of `Reason`, or a worker's own word."""

    reason: str
    message: str
    passes: bool = False
    """Whether it passes by itself, so that nobody has to act."""


def running_problem(s: Situation, pod: PodView) -> Problem | None:
    """Returns the problem of a scheduled pod, or None."""
    checks: tuple[Callable[[Situation, PodView], Problem | None], ...] = (
        _pulling,
        _mounting,
        crash_problem,
        _crashing,
        stuck,
    )
    return next((problem for check in checks if (problem := check(s, pod)) is not None), None)


def refusal_reason(message: str, default: Reason) -> Reason:
    """Returns the reason of a refusal, recognized by the wording of the API server's own admission."""
    lowered = message.lower()
    return next((reason for mark, reason in _REFUSALS if mark in lowered), default)


def _pulling(s: Situation, pod: PodView) -> Problem | None:
    reason, message = pod.waiting
    if reason in _PULL_FAILURES:
        detail = _image_detail(s.children, pod) or message or reason
        return Problem(Reason.IMAGE_PULL_FAILED, shortened(f"The image {pod.image} can't be pulled: {detail}"))
    if reason in _CONFIG_FAILURES:
        return Problem(Reason.CONTAINER_REFUSED, shortened(f"The container of {pod.name} can't be made: {message}"))
    return None


def _image_detail(children: Children, pod: PodView) -> str:
    """Returns the error of the pull: the container's status alternates between it and "Back-off pulling image"."""
    failures = [
        event.message for event in children.events_about(pod, "Failed") if "Failed to pull image" in event.message
    ]
    return failures[-1] if failures else ""


def _mounting(s: Situation, pod: PodView) -> Problem | None:
    if pod.ever_started or pod.scheduled_at is None:
        return None
    events = [e for e in s.children.events_about(pod, *_MOUNT_EVENTS) if e.at >= pod.scheduled_at]
    if not events:
        return None
    telling = [event for event in events if not event.message.startswith(_WAITED_FOR_VOLUMES)] or events
    return Problem(
        Reason.VOLUME_MOUNT_FAILED, shortened(f"A volume of the pod {pod.name} can't be mounted: {telling[-1].message}")
    )


def crash_problem(s: Situation, pod: PodView) -> Problem | None:
    """Returns the problem of a run that has ended with an error, or None."""
    end = pod.ended
    if end is None or end.exit_code == exits.OK:
        return None
    return _end_problem(s.asked, pod, end, s.children.report(pod) or s.children.former_report(pod))


def _crashing(s: Situation, pod: PodView) -> Problem | None:
    """Returns the problem of the previous run of a container that crashed while loading and has restarted: nothing has
    improved until it gets further than before."""
    end, until = pod.former_end, crashing_until(s, pod)
    if end is None or until is None or s.now >= until:
        return None
    problem = _end_problem(s.asked, pod, end, s.children.former_report(pod))
    return None if problem.passes else problem


def crashing_until(s: Situation, pod: PodView) -> datetime | None:
    """Returns until when a restarted container counts as crashing; None if the previous run did not crash while
    loading."""
    end = pod.former_end
    if pod.ready_at or end is None or end.exit_code == exits.OK or pod.running_since is None:
        return None
    former = s.children.former_report(pod)
    loaded = any(start.id == pod.former_run.run_id and start.ready_at for start in s.asked.status.starts)
    if loaded or (former and former.ready_at) or not (end.started_at and end.finished_at):
        return None
    return pod.running_since + (end.finished_at - end.started_at) * 1.1 + CRASH_MARGIN


def _end_problem(asked: Asked, pod: PodView, end: Ended, report: Report | None) -> Problem:
    reason = end_reason(end, report)
    if reason == Reason.TERMINATED:
        return _terminated(pod)
    if report and report.failure:
        return Problem(reason, shortened(asked.in_terms_of_claims(report.failure.message), MAX_WORKERS_MESSAGE))
    return Problem(reason, shortened(_crash_sentence(asked, pod, end)))


def _terminated(pod: PodView) -> Problem:
    next_run = "" if pod.job_uid else " Kubernetes starts it again."
    return Problem(
        Reason.TERMINATED, f"The worker in {pod.name} was told to stop before it was done.{next_run}", passes=True
    )


def stop_problem(s: Situation, pod: PodView) -> Problem | None:
    """Returns the problem of a Job's pod that is or was being terminated; it needs no action.

    A pod that somebody deletes is gone as soon as its Job has counted it, so this has to be reported before.
    """
    if pod.is_terminating and pod.running_since:
        return _terminated(pod)
    problem = crash_problem(s, pod)
    return problem if problem and problem.passes else None


def end_reason(end: Ended | None, report: Report | None) -> str:
    """Returns the reason of a run that did not succeed."""
    if report and report.failure:
        return report.failure.reason
    return _EXIT_REASONS.get(end.exit_code, Reason.WORKER_CRASHED) if end else Reason.WORKER_CRASHED


def _memory_figures(asked: Asked, pod: PodView) -> str:
    """Returns the limit that the pod has, and for a worker that serves what a start needs, as far as they are known."""
    limit, sizing = pod.memory_limit, asked.status.sizing
    known = [f"its limit is {limit}"] if limit else []
    if sizing and pod.component == names.COMPONENT_SERVE:
        known.append(f"a start needs about {sizing.host_memory_bytes / 2**20:,.0f}Mi")
    return f": {', and '.join(known)}" if known else ""


def _crash_sentence(asked: Asked, pod: PodView, end: Ended) -> str:
    if end.reason == "OOMKilled":
        field = "spec.prepare.resources" if pod.component == names.COMPONENT_PREPARE else "spec.worker.resources"
        return (
            f"The worker in {pod.name} was killed for want of memory (exit code {end.exit_code})"
            f"{_memory_figures(asked, pod)}. Raise the memory limit in {field}."
        )
    text = gist(end.message).removesuffix(".") or "it left no message"
    code, command = _exit_code_text(end.exit_code), _log_command(asked, pod)
    return f"The worker in {pod.name} ended with {code}: {text}. See `{command}`."


def _exit_code_text(code: int) -> str:
    """Returns the exit code with the signal's name: shells and container runtimes report 128 plus the signal."""
    name = next((signal.name for signal in Signals if signal + 128 == code), None)
    return f"exit code {code} ({name})" if name else f"exit code {code}"


def _log_command(asked: Asked, pod: PodView) -> str:
    """Returns the command for the log of the run that crashed: it is the previous run only while another is running,
    and the kubelet keeps no earlier ones."""
    former = " --previous" if pod.running_since else ""
    return f"kubectl logs -n {asked.model.namespace} {pod.name}{former}"


def stuck(s: Situation, pod: PodView) -> Problem | None:
    """Returns a problem if there was no new phase and no 5 % of progress for `startTimeoutSeconds`. The worker is not
    killed: it may only be slow."""
    if pod.ready_at or pod.ended or pod.scheduled_at is None:
        return None
    moved_at = last_movement(s, pod)
    if s.now - moved_at < start_timeout(s.asked):
        return None
    report = s.children.report(pod)
    where = f"in phase {report.progress.phase}" if report and report.progress else "before its first report"
    return Problem(
        Reason.START_STUCK,
        f"The worker in {pod.name} has made no progress since {moment(moved_at)}, {where}. It is left "
        f"running; look at `kubectl logs -n {s.asked.model.namespace} {pod.name}`, or delete the pod to start over.",
    )


def start_timeout(asked: Asked) -> timedelta:
    return timedelta(seconds=asked.spec.serving.start_timeout_seconds)


def last_movement(s: Situation, pod: PodView) -> datetime:
    moments = [pod.created_at, pod.scheduled_at, pod.started_at]
    if report := s.children.report(pod):
        moments += [report.started_at, report.progress.started_at if report.progress else None]
        moments += [phase.started_at + timedelta(milliseconds=phase.milliseconds) for phase in report.phases[-1:]]
    written = next((worker.progress for worker in s.asked.status.workers if worker.pod_name == pod.name), None)
    moments.append(written.updated_at if written else None)
    return max(moment for moment in moments if moment is not None)
