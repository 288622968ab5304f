"""SourceResolved: the checkpoint exists and can be read. It wants nothing, and waits for `prepare` to open it."""

from datetime import timedelta
from typing import Final

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Note, Report
from neuronmodel_operator.conditions.verdict import (
    MISSING_CLAIM_CHECK,
    ConditionResult,
    holds,
    refused,
    verdict_on,
    waits,
)
from neuronmodel_operator.decide import prepare_attempts
from neuronmodel_operator.decide.claims import claim_problem
from neuronmodel_operator.decide.failed_attempts import attempt_problem
from neuronmodel_operator.decide.failures import Problem, crash_problem, running_problem
from neuronmodel_operator.decide.network_source import check_seconds, is_of_source, latest_revision
from neuronmodel_operator.decide.preconditions import unmet_source_precondition
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.worker_config import source_display
from neuronmodel_operator.state.objects import JobState

REMEMBERED_SECONDS: Final = 3600
"""Where no worker asks again."""


def source(s: Situation) -> ConditionResult:
    if found := unmet_source_precondition(s):
        return ConditionResult(verdict_on(found), wake_after=MISSING_CLAIM_CHECK)
    if found := claim_problem(s, ConditionType.SOURCE_RESOLVED):
        return ConditionResult(verdict_on(found))
    display = source_display(s.asked.spec.model.source)
    if failure := source_failure(s):
        return ConditionResult(refused(failure.reason, f"{display}: {failure.message}"))
    if s.artifacts.rejection and s.artifacts.rejection.is_of_source:
        return ConditionResult(
            waits(s.artifacts.rejection.reason, f"{display}: {s.artifacts.rejection.message} It is opened again.")
        )
    if s.artifacts.prepared:
        result = s.artifacts.prepared.result
        network = s.asked.spec.model.source.on_network
        at = f", at {network.REVISION} {result.source.revision}" if network and result.source else ""
        text = f"{display}: {result.model_type}, {result.source_bytes:,} bytes{at}."
        if note := _note_on_source(s):
            message = f"{text} What is prepared is served all the same. {note.message}"
            return ConditionResult(waits(note.reason, message), wake_after=_forgotten_in(s))
        return ConditionResult(holds(Reason.RESOLVED, text))
    if _is_opened(s):
        return ConditionResult(holds(Reason.RESOLVED, f"{display}: opened."))
    return ConditionResult(
        waits(Reason.WAITING_FOR_PREPARE, f"{display}: opened by the prepare Job, which has not done so yet.")
    )


def source_failure(s: Situation) -> Problem | None:
    """Returns the failure of the latest attempt, or of a worker made from its result, if the source was the cause."""
    job = prepare_attempts.unsettled_job(s.artifacts)
    if job and job.state is JobState.FAILED:
        found = [attempt_problem(s, job)]
    elif job and job.state is JobState.ACTIVE:
        # The pod has ended before its Job says so.
        found = [problem for pod in s.children.pods_of(job) if (problem := crash_problem(s, pod))]
    elif job is None and s.artifacts.is_current and not s.artifacts.rejection:
        found = [problem for pod in s.children.current_pods if (problem := running_problem(s, pod))]
    else:
        found = []
    return next((problem for problem in found if is_of_source(problem.reason)), None)


def _note_on_source(s: Situation) -> Note | None:
    """Returns what a worker noted about the source without having needed it: one that serves, if it has asked for
    something, else the latest `prepare`, for as long as it takes until somebody asks again."""
    if s.asked.spec.model.source.on_network is None:
        return None
    serving = [report for pod in s.children.current_pods if (report := s.children.report(pod))]
    asked = [report for report in serving if report.latest_revision or _notes_on_source(report)]
    if not asked and latest_revision(s) is None and _forgotten_in(s):
        job = s.artifacts.latest_job
        asked = [report for pod in s.children.pods_of(job) if (report := s.children.report(pod))] if job else []
    return next((note for report in asked for note in _notes_on_source(report)), None)


def _forgotten_in(s: Situation) -> timedelta | None:
    """Returns how long the word of the latest `prepare` still counts; None if it no longer does."""
    job = s.artifacts.latest_job
    if job is None:
        return None
    counts = timedelta(seconds=check_seconds(s) or REMEMBERED_SECONDS)
    left = (job.ended_at or s.now) + counts - s.now
    return left if left > timedelta(0) else None


def _notes_on_source(report: Report) -> list[Note]:
    return [note for note in report.notes if is_of_source(note.reason)]


def _is_opened(s: Situation) -> bool:
    job = prepare_attempts.unsettled_job(s.artifacts)
    reports = [s.children.report(pod) for pod in s.children.pods_of(job)] if job else []
    return any(phase.name == StartPhase.SOURCE_OPENED for report in reports if report for phase in report.phases)
