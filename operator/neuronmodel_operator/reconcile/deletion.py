"""The deletion of a NeuronModel, by `artifacts.retention`. Garbage collection removes its children. With `Delete` the
store is cleaned first, and our finalizer keeps the NeuronModel until that is done or abandoned."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_api.spec import Retention
from neuronmodel_operator.conditions.verdict import reference
from neuronmodel_operator.decide.keys_in_use import keys_of_others
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.hashes import digest
from neuronmodel_operator.manifests.job import cleanup_job
from neuronmodel_operator.manifests.pod import WorkerPod
from neuronmodel_operator.manifests.worker_config import cleanup_config
from neuronmodel_operator.state.objects import JobState
from neuronmodel_operator.state.plan import EventNote, ObjectRef, Plan

GIVE_UP_AFTER: Final = timedelta(minutes=10)
RECHECK: Final = timedelta(seconds=5)


@dataclass(frozen=True)
class DeletionStep:
    """One step of a deletion, with the message for the condition Ready."""

    plan: Plan
    message: str


def finalizer_wanted(s: Situation) -> bool:
    """Whether the NeuronModel needs the finalizer: only while its deletion would require a clean-up Job."""
    if s.asked.spec.artifacts.retention is not Retention.DELETE or s.asked.image is None:
        return False
    return s.asked.spec.artifacts.template is not None or not s.children.is_missing(s.asked.artifacts_claim)


def deletion_step(s: Situation) -> DeletionStep:
    if names.FINALIZER not in s.asked.model.finalizers:
        return DeletionStep(Plan(), "It goes.")
    if s.asked.spec.artifacts.retention is not Retention.DELETE:
        return DeletionStep(Plan(finalizer=False), "Its artifacts stay.")
    if given_up := _given_up(s):
        return _abandoned(s, given_up)
    if s.children.cleanup_job and s.children.cleanup_job.state is JobState.SUCCEEDED:
        return _cleaned(s)
    workers = _workers(s)
    if workers or any(not pod.has_ended for pod in (*s.children.serve_pods, *s.children.prepare_pods)):
        return DeletionStep(Plan(delete=workers, wake_after=RECHECK), "The worker and prepare end first.")
    if s.children.cleanup_job is None and s.asked.image is not None and s.observed.serving_workloads is not None:
        job = _job(s, s.asked.image)
        text = "Made the Job that removes the artifacts nobody else refers to."
        note = EventNote("Normal", Reason.CLEANUP_STARTED, text, (job["kind"], job["metadata"]["name"]))
        return DeletionStep(Plan(create=(job,), events=(note,), wake_after=RECHECK), "The clean-up Job is made.")
    return DeletionStep(Plan(wake_after=RECHECK), "The clean-up Job removes the artifacts that nobody else refers to.")


def _given_up(s: Situation) -> str | None:
    if s.observed.namespace_terminating:
        return "the namespace is being deleted and takes no Job"
    if s.asked.has_foreign_claim:
        return f"the claim {s.asked.artifacts_claim} was not made for this NeuronModel"
    if s.children.is_missing(s.asked.artifacts_claim):
        # After our own clean-up this is expected.
        done = s.children.cleanup_job is not None and s.children.cleanup_job.state is JobState.SUCCEEDED
        return None if done else f"the claim {s.asked.artifacts_claim} is gone"
    if s.asked.image is None:
        return "no image is configured for the engine"
    job = s.children.cleanup_job
    if job and job.state is JobState.SUCCEEDED:
        return None
    running = job is not None and any(pod.running_since for pod in s.children.pods_of(job))
    return None if running or s.now - _since(s) < GIVE_UP_AFTER else "cleaning has failed for ten minutes"


def _since(s: Situation) -> datetime:
    requested = s.asked.model.deletion_requested_at or s.now
    return max(requested, s.children.cleanup_job.created_at) if s.children.cleanup_job else requested


def _abandoned(s: Situation, why: str) -> DeletionStep:
    note = EventNote("Warning", Reason.CLEANUP_ABANDONED, f"Artifacts may be left behind: {why}.")
    plan = Plan(finalizer=False, delete=_own_job(s), events=(note,))
    return DeletionStep(plan, "It goes without having been cleaned up after.")


def _own_job(s: Situation) -> tuple[ObjectRef, ...]:
    """Returns the clean-up Job, which nobody else removes: the NeuronModel stays until it is deleted. If that is
    refused for too long, the Job is left."""
    job = s.children.cleanup_job
    is_left = s.refusal(("Job",), "delete") is not None and s.now - _since(s) >= GIVE_UP_AFTER
    return () if job is None or job.is_terminating or is_left else (reference(job),)


def _cleaned(s: Situation) -> DeletionStep:
    claim = (
        s.children.claim(names.templated_claim(s.asked.model.name)).object if s.asked.spec.artifacts.template else None
    )
    if claim is None or "deletionTimestamp" in claim["metadata"] or is_claim_shared(s, claim["metadata"]["name"]):
        note = EventNote("Normal", Reason.CLEANED_UP, "Removed the artifacts that nobody else refers to.")
        return DeletionStep(Plan(finalizer=False, delete=_own_job(s), events=(note,)), "Cleaned up.")
    if _is_used_by_deleted(s, claim["metadata"]["name"]):
        return DeletionStep(Plan(wake_after=RECHECK), "Other NeuronModels that go too let go of the claim first.")
    ref = ObjectRef("v1", "PersistentVolumeClaim", claim["metadata"]["name"], claim["metadata"]["uid"])
    text = f"Deleted the claim {ref.name}, which no other NeuronModel names."
    note = EventNote("Normal", Reason.CLAIM_DELETED, text, (ref.kind, ref.name))
    return DeletionStep(Plan(delete=(ref,), events=(note,), wake_after=RECHECK), "The claim goes.")


def is_claim_shared(s: Situation, claim: str) -> bool:
    """Whether another NeuronModel of the namespace refers to the claim. One that is being deleted does not count,
    unless waiting for it has taken too long."""
    counts = s.observed.other_models if s.now - _since(s) >= GIVE_UP_AFTER else _remaining_models(s)
    return any(claim in _named_claims(other) for other in counts)


def _is_used_by_deleted(s: Situation, claim: str) -> bool:
    """Whether a NeuronModel that is being deleted refers to the claim and may still clean it up."""
    return any(claim in _named_claims(other) for other in s.observed.other_models if other not in _remaining_models(s))


def _remaining_models(s: Situation) -> list[Any]:
    return [other for other in s.observed.other_models if "deletionTimestamp" not in other["metadata"]]


def _named_claims(model: Any) -> set[str]:
    spec = model.get("spec", {})
    places = (spec.get("model", {}).get("source", {}), spec.get("artifacts", {}), spec.get("scratch", {}))
    named = {place["persistentVolumeClaim"]["claimName"] for place in places if place.get("persistentVolumeClaim")}
    templated = (
        {names.templated_claim(model["metadata"]["name"])} if spec.get("artifacts", {}).get("template") else set()
    )
    return named | templated


def _workers(s: Situation) -> tuple[ObjectRef, ...]:
    children = [*s.children.jobs, *([s.children.deployment] if s.children.deployment else [])]
    return tuple(reference(child) for child in children if not child.is_terminating)


def _job(s: Situation, image: str) -> dict[str, Any]:
    made_from = digest({"uid": s.asked.model.uid, "claim": s.asked.artifacts_claim})
    return cleanup_job(
        WorkerPod(
            model=s.asked.model,
            component=names.COMPONENT_CLEANUP,
            image=image,
            artifacts_claim=s.asked.artifacts_claim,
            config=cleanup_config(s.asked.model, made_from, keys_of_others(s)),
            annotations={names.ANNOTATION_INPUTS_HASH: made_from},
        )
    )
