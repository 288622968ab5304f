"""When `prepare` runs, decided from its Jobs and the validity of its results."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from neuronmodel_operator.decide.artifacts import PreparedArtifacts
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.rollout import awaits_trial
from neuronmodel_operator.decide.situation import RESULT_GRACE, Situation
from neuronmodel_operator.state.objects import JobState, JobView

LONGEST_WAIT: Final = timedelta(minutes=30)
REJECTED_SOON: Final = timedelta(hours=2)
"""A result that the worker rejects within this time counts as a failed attempt, so that preparing and rejecting do not
alternate endlessly."""


@dataclass(frozen=True)
class Attempt:
    number: int
    failures: int
    """The number of consecutive failures before it."""
    due: datetime
    """The earliest time to start."""
    tries_image: bool = False
    """Whether there is a result already, and the attempt only tests the image."""


def backoff(failures: int) -> timedelta:
    """Returns the pause after this many consecutive failures: 1, 2, 4 … 30 minutes."""
    if failures == 0:
        return timedelta(0)
    return min(timedelta(minutes=2 ** min(failures - 1, 10)), LONGEST_WAIT)


def unsettled_job(artifacts: PreparedArtifacts) -> JobView | None:
    """Returns the Job that is newer than the present result, or None."""
    job = artifacts.latest_job
    return job if job and (artifacts.prepared is None or job.attempt > artifacts.prepared.attempt) else None


def next_attempt(s: Situation, template_hash: str) -> Attempt | None:
    """Returns the next attempt, or None if one is running or none is needed. `template_hash` is that of the pod that an
    attempt would get now."""
    job = unsettled_job(s.artifacts)
    if job is None:
        return _after_result(s)
    if job.state is JobState.ACTIVE:
        return None
    ended_at = job.ended_at or job.created_at
    tries_image = job.tries_image is not None
    if job.state is JobState.SUCCEEDED:
        lost_at = max(ended_at + RESULT_GRACE, ended_at + backoff(job.failures))
        return Attempt(job.attempt + 1, job.failures + 1, lost_at, tries_image)
    if _is_retry_requested(s.asked, job) or job.template_hash != template_hash:
        return Attempt(job.attempt + 1, 0, s.now, tries_image)
    return Attempt(job.attempt + 1, job.failures + 1, ended_at + backoff(job.failures + 1), tries_image)


def _after_result(s: Situation) -> Attempt | None:
    if s.artifacts.prepared is None:
        return Attempt(1, 0, s.now)
    if s.artifacts.rejection is None:
        return Attempt(s.artifacts.prepared.attempt + 1, 0, s.now, tries_image=True) if awaits_trial(s) else None
    number = s.artifacts.prepared.attempt + 1
    rejected_at = s.artifacts.rejection.at or s.now
    job = next((job for job in s.artifacts.own_jobs if job.attempt == s.artifacts.prepared.attempt), None)
    if job is None or _is_retry_requested(s.asked, job) or rejected_at - (job.ended_at or rejected_at) > REJECTED_SOON:
        return Attempt(number, 0, s.now)
    # Counted from the Job: a worker in a crash loop rejects the result again every few minutes.
    return Attempt(number, job.failures + 1, (job.ended_at or rejected_at) + backoff(job.failures))


def _is_retry_requested(asked: Asked, job: JobView) -> bool:
    return bool(asked.retry) and asked.retry != job.retried


def may_be_remade(children: Children, job: JobView, template_hash: str) -> bool:
    """Whether an attempt that never started (no node, no image, refused) may be replaced by one of the present spec."""
    began = any(pod.ever_started for pod in children.pods_of(job))
    return job.state is JobState.ACTIVE and job.template_hash != template_hash and not began


def is_blocked_by_former(s: Situation) -> bool:
    """Whether a Job of other inputs, or a pod of a deleted Job, still exists: there must be only one writer at a
    time."""
    jobs = any(job.is_terminating or not s.artifacts.is_for_now(job) for job in s.children.jobs)
    own = {job.uid for job in s.artifacts.own_jobs}
    return jobs or any(pod.job_uid not in own and not pod.has_ended for pod in s.children.prepare_pods)
