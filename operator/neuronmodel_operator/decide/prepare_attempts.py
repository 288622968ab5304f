"""When `prepare` runs: the decision, from its Jobs and from what its results are worth."""

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
"""A result that the worker turns down within this time counts as a failed attempt: it must not go round and round."""


@dataclass(frozen=True)
class Attempt:
    number: int
    failures: int
    """In a row, before it."""
    due: datetime
    """Not before."""
    tries_image: bool = False
    """There is a result; whether this image works is what it is for."""


def backoff(failures: int) -> timedelta:
    """After so many failures in a row: 1, 2, 4 … 30 minutes."""
    if failures == 0:
        return timedelta(0)
    return min(timedelta(minutes=2 ** min(failures - 1, 10)), LONGEST_WAIT)


def unsettled_job(artifacts: PreparedArtifacts) -> JobView | None:
    """The Job that decides now: later than the result at hand."""
    job = artifacts.latest_job
    return job if job and (artifacts.prepared is None or job.attempt > artifacts.prepared.attempt) else None


def next_attempt(s: Situation, template_hash: str) -> Attempt | None:
    """None: one is under way, or none is needed. `template_hash` is of the pod that an attempt would get now."""
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
    # Counted from the Job: a worker in a crash loop finds the same anew every few minutes.
    return Attempt(number, job.failures + 1, (job.ended_at or rejected_at) + backoff(job.failures))


def _is_retry_requested(asked: Asked, job: JobView) -> bool:
    return bool(asked.retry) and asked.retry != job.retried


def may_be_remade(children: Children, job: JobView, template_hash: str) -> bool:
    """An attempt that never began (no node, no image, refused) is made anew as the spec is now."""
    began = any(pod.ever_started for pod in children.pods_of(job))
    return job.state is JobState.ACTIVE and job.template_hash != template_hash and not began


def is_blocked_by_former(s: Situation) -> bool:
    """A Job of other inputs, or a pod of a Job that is gone: two writers at a time are none too few."""
    jobs = any(job.is_terminating or not s.artifacts.is_for_now(job) for job in s.children.jobs)
    own = {job.uid for job in s.artifacts.own_jobs}
    return jobs or any(pod.job_uid not in own and not pod.has_ended for pod in s.children.prepare_pods)
