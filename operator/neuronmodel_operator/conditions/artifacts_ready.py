"""ArtifactsReady: everything that a start needs was built. It wants the claim and the Job `prepare`, and waits for its
result."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.config import Strategy
from neuronmodel_api.phases import WITHOUT_POD
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Stage
from neuronmodel_operator.conditions.source_resolved import source_failure
from neuronmodel_operator.conditions.verdict import (
    MISSING_CLAIM_CHECK,
    ConditionResult,
    Verdict,
    holds,
    reference,
    soonest,
    verdict_on,
    waits,
)
from neuronmodel_operator.decide import prepare_attempts
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.auto_history import history
from neuronmodel_operator.decide.changes import change_in_force
from neuronmodel_operator.decide.claims import claim_problem, terminating_claims
from neuronmodel_operator.decide.failed_attempts import again, attempt_problem, stopped_attempt
from neuronmodel_operator.decide.failures import running_problem
from neuronmodel_operator.decide.keys_in_use import keys_in_use
from neuronmodel_operator.decide.placement import placement_problem
from neuronmodel_operator.decide.preconditions import (
    unmet_artifacts_precondition,
    unmet_placement_precondition,
    unmet_precondition,
    unmet_source_precondition,
)
from neuronmodel_operator.decide.prepare_attempts import Attempt
from neuronmodel_operator.decide.refused_writes import write_problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.diff import diff
from neuronmodel_operator.manifests.job import prepare_job, template_hash
from neuronmodel_operator.manifests.pod import WorkerPod
from neuronmodel_operator.manifests.pvc import artifacts_claim
from neuronmodel_operator.manifests.worker_config import PrepareContext, prepare_config
from neuronmodel_operator.state.objects import JobState, JobView
from neuronmodel_operator.state.plan import EventNote, Manifest, ObjectRef
from neuronmodel_operator.wording import moment

LOOK_AGAIN: Final = timedelta(seconds=0.5)
_TRIES_IMAGE: Final = "tries the image before the worker that answers is stopped"


def artifacts(s: Situation) -> ConditionResult:
    pod = _pod(s)
    attempt = prepare_attempts.next_attempt(s, template_hash(pod)) if pod else None
    may_begin = attempt is not None and attempt.due <= s.now and not prepare_attempts.is_blocked_by_former(s)
    due = pod is not None and may_begin
    made = due and s.observed.serving_workloads is not None
    job = _job(s, pod, attempt) if made and pod and attempt else None
    return ConditionResult(
        verdict=_verdict(s, attempt),
        delete=_outdated(s, pod),
        apply=_claim(s),
        create=(job,) if job else (),
        events=(_started_note(attempt, job),) if attempt and job else (),
        # A look that did not expect a Job lacks what the Job has to know: the next look has it.
        wake_after=LOOK_AGAIN if due and not made else _wake_after(s, attempt),
    )


# What it wants.


def _claim(s: Situation) -> tuple[Manifest, ...]:
    template = s.asked.spec.artifacts.template
    if template is None or s.asked.has_foreign_claim:
        return ()
    existing = s.children.claim(names.templated_claim(s.asked.model.name)).object
    wanted = artifacts_claim(s.asked.model, template, existing)
    return () if diff(existing, wanted) is None else (wanted,)


def _pod(s: Situation) -> WorkerPod | None:
    if unmet_precondition(s) or s.asked.image is None:
        return None
    return WorkerPod(
        model=s.asked.model,
        component=names.COMPONENT_PREPARE,
        image=s.asked.image,
        artifacts_claim=s.asked.artifacts_claim,
        config=prepare_config(s.asked.model, s.asked.strategy, s.asked.inputs_hash, _prepare_context(s)),
        annotations={names.ANNOTATION_INPUTS_HASH: s.asked.inputs_hash},
        proxy=s.settings.proxy,
    )


def _prepare_context(s: Situation) -> PrepareContext:
    return PrepareContext(
        resolved=None if _has_moved_on(s) else s.artifacts.resolved,
        history=history(s) if s.asked.strategy is Strategy.AUTO else None,
        keys_in_use=keys_in_use(s),
        looks_closely=s.artifacts.rejection is not None and s.artifacts.rejection.reason == Reason.ARTIFACT_DAMAGED,
    )


def _has_moved_on(s: Situation) -> bool:
    """Whether the revision that a source was pinned at can no longer be read, as a worker or `prepare` found."""
    source = s.asked.spec.model.source.on_network
    if source is None or not source.IS_OVERWRITTEN:
        return False
    job = prepare_attempts.unsettled_job(s.artifacts)
    failure = attempt_problem(s, job) if job and job.state is JobState.FAILED else s.artifacts.rejection
    return failure is not None and failure.reason == Reason.SOURCE_CHANGED


def _job(s: Situation, pod: WorkerPod, attempt: Attempt) -> Manifest:
    change = change_in_force(s)
    return prepare_job(pod, attempt.number, attempt.failures, s.asked.retry, change, tries_image=attempt.tries_image)


def _started_note(attempt: Attempt, job: Manifest) -> EventNote:
    again = "" if attempt.number == 1 else f", attempt {attempt.number}"
    what = _TRIES_IMAGE if attempt.tries_image else "opens the source and builds what is missing"
    return EventNote(
        "Normal",
        Reason.PREPARE_STARTED,
        f"Made the Job that {what}{again}.",
        ("Job", job["metadata"]["name"]),
    )


def _outdated(s: Situation, pod: WorkerPod | None) -> tuple[ObjectRef, ...]:
    """Returns Jobs to delete: those of other inputs, superseded attempts, one that never started and would be created
    differently now, and ended ones that keep a claim from being deleted."""
    others = [job for job in s.children.jobs if not s.artifacts.is_for_now(job)]
    followed = [
        job for job in s.artifacts.own_jobs if job.attempt < s.artifacts.latest_attempt and _is_recorded(s.asked, job)
    ]
    latest = prepare_attempts.unsettled_job(s.artifacts)
    stale = (
        [latest] if pod and latest and prepare_attempts.may_be_remade(s.children, latest, template_hash(pod)) else []
    )
    holding = [job for job in s.artifacts.own_jobs if _holds_claim(s, job) and _is_recorded(s.asked, job)]
    found = [*others, *followed, *stale, *holding]
    return tuple(dict.fromkeys(reference(job) for job in found if not job.is_terminating))


def _holds_claim(s: Situation, job: JobView) -> bool:
    """Whether an ended Job's pod keeps a claim from being deleted, and its result is stored elsewhere."""
    if job.state is JobState.ACTIVE or (
        job.state is JobState.SUCCEEDED and s.children.in_force != s.artifacts.prepared
    ):
        return False
    terminating = terminating_claims(s)
    return any(terminating & pod.claims for pod in s.children.pods_of(job))


def _is_recorded(asked: Asked, job: JobView) -> bool:
    """Whether its phases are recorded in the open start, or no start will need them."""
    start = next(iter(asked.status.starts), None)
    if start is None or start.ready_at is not None or (job.ended_at and job.ended_at <= start.started_at):
        return True
    recorded = (phase for phase in start.phases if phase.name not in WITHOUT_POD)
    return any(phase.stage is Stage.PREPARE and phase.attempt == job.attempt for phase in recorded)


# What it waits for.


def _verdict(s: Situation, attempt: Attempt | None) -> Verdict:
    if found := unmet_artifacts_precondition(s):
        return verdict_on(found)
    if refusal := s.refusal(("PersistentVolumeClaim",)):
        return verdict_on(write_problem(refusal))
    if found := claim_problem(s, ConditionType.ARTIFACTS_READY):
        return verdict_on(found)
    if job := prepare_attempts.unsettled_job(s.artifacts):
        return _under_way(s, job, attempt)
    if s.artifacts.prepared and s.artifacts.rejection is None:
        if attempt is None:
            return _prepared(s)
        return waits(Reason.TRYING_IMAGE, f"The Job prepare {_TRIES_IMAGE} (attempt {attempt.number}).")
    if unmet_source_precondition(s):
        return waits(Reason.WAITING_FOR_SOURCE, "Built when the source is there.")
    if unmet_placement_precondition(s):
        return waits(Reason.WAITING_FOR_PLACEMENT, "Built when the Job's pod can be made.")
    if prepare_attempts.is_blocked_by_former(s):
        if undeleted := s.refusal(("Job",), verb="delete"):
            return verdict_on(write_problem(undeleted))
        return waits(Reason.WAITING_FOR_FORMER_PREPARE, "The Job of the former inputs has to end first.")
    if s.artifacts.rejection:
        return waits(
            s.artifacts.rejection.reason, f"{s.artifacts.rejection.message} prepare runs again{_when_text(s, attempt)}."
        )
    return waits(Reason.PREPARING, "The Job that builds them is made.")


def _under_way(s: Situation, job: JobView, attempt: Attempt | None) -> Verdict:
    if job.state is JobState.FAILED:
        failed = again(job.attempt, _when_text(s, attempt))
        if source_failure(s):
            return waits(Reason.WAITING_FOR_SOURCE, failed)
        failure = attempt_problem(s, job)
        return verdict_on(replace(failure, message=f"{failure.message} {failed}"))
    if job.state is JobState.SUCCEEDED:
        return waits(Reason.READING_RESULT, f"The Job {job.name} succeeded; its result is being read.")
    if source_failure(s):
        return waits(Reason.WAITING_FOR_SOURCE, f"The attempt {job.attempt} failed; SourceResolved says why.")
    pods = tuple(pod for pod in s.children.pods_of(job) if not pod.has_ended)
    if stopped := stopped_attempt(s, job):
        return verdict_on(replace(stopped, message=f"{stopped.message} {again(job.attempt, '')}"))
    if placement_problem(s, pods, job):
        return waits(Reason.WAITING_FOR_PLACEMENT, f"The pod of the Job {job.name} has no place yet.")
    if problem := next((t for pod in pods if (t := running_problem(s, pod))), None):
        return verdict_on(problem)
    if job.tries_image:
        return waits(Reason.TRYING_IMAGE, f"The Job {job.name} {_TRIES_IMAGE}.")
    return waits(Reason.PREPARING, f"The Job {job.name} opens the source and builds what is missing.")


def _prepared(s: Situation) -> Verdict:
    result = s.artifacts.prepared.result if s.artifacts.prepared else None
    if result is None or result.cache == "Hit":
        text = "Everything was there already."
    else:
        text = result.missed or "Built what was missing."
    more = result.quarantined_besides if result else ()
    undeleted = s.refusal(("Job",), verb="delete")
    left = [write_problem(undeleted).message] if undeleted else []
    return holds(Reason.PREPARED, " ".join([text, *more, *left]))


def _when_text(s: Situation, attempt: Attempt | None) -> str:
    if attempt is None:
        return " when the NeuronModel can be placed"
    return " at once" if attempt.due <= s.now else f" at {moment(attempt.due)}"


def _wake_after(s: Situation, attempt: Attempt | None) -> timedelta | None:
    wanted = [MISSING_CLAIM_CHECK if unmet_artifacts_precondition(s) else None]
    if attempt and attempt.due > s.now:
        wanted.append(attempt.due - s.now)
    return soonest(wanted)
