"""Problems that keep a pod from being created or scheduled: by its controller, the scheduler and the pod's claims."""

import re
from datetime import timedelta
from typing import Final

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.claims import claim_wait
from neuronmodel_operator.decide.failures import Problem, refusal_reason
from neuronmodel_operator.decide.scheduler_message import claim_not_there, in_short
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.objects import Child, ClaimView, JobState, JobView, PodView
from neuronmodel_operator.wording import shortened

UNSEEN_FOR: Final = timedelta(seconds=30)
"""How long a scheduler may take to handle a pod, or to retry after an error."""


def placement_problem(s: Situation, pods: tuple[PodView, ...], owner: Child | None) -> Problem | None:
    """Returns the problem of the pods that a Job or Deployment should have, or None."""
    wanted = 1 if isinstance(owner, JobView) else s.asked.replicas
    if owner and len(pods) < wanted and (problem := _creation_problem(s.children, owner)):
        return problem
    return next((problem for pod in pods if pod.node is None and (problem := _unplaced(s, pod))), None)


def _unplaced(s: Situation, pod: PodView) -> Problem | None:
    if pod.scheduling_gates:
        gates = ", ".join(pod.scheduling_gates)
        message = f"The pod {pod.name} is held back by {gates}, and gets a node when that lets go of it."
        return Problem(Reason.SCHEDULING_GATED, message, passes=True)
    if wait := claim_wait(s, pod):
        return wait
    if _is_outdated(s.children, pod):
        return None
    text = in_short(pod.unschedulable) if pod.unschedulable is not None else _scheduler_error(s, pod) or _unseen(s, pod)
    if text is None:
        return None
    return Problem(Reason.UNSCHEDULABLE, shortened(f"No node takes the pod {pod.name}: {text}"))


def _is_outdated(children: Children, pod: PodView) -> bool:
    """Whether the scheduler's message is outdated, as the claim that it misses exists by now."""
    claim = claim_not_there(pod.unschedulable or "")
    found = children.claim(claim).object if claim else None
    return found is not None and not ClaimView(found).is_terminating


def _scheduler_error(s: Situation, pod: PodView) -> str | None:
    """Returns the scheduler's error after it had found a node; it is often transient and retried."""
    error = pod.scheduler_error
    return error.message if error and s.now - (error.since or s.now) >= UNSEEN_FOR else None


def _unseen(s: Situation, pod: PodView) -> str | None:
    """Returns why the scheduler has not handled a pod: what it waits for is only partly reported, in an Event."""
    if pod.is_seen:
        return None
    failures = s.children.events_about(pod, "FailedResourceClaimCreation")
    if failures:
        return failures[-1].message
    if s.now - pod.created_at < UNSEEN_FOR:
        return None
    claims = ", ".join(pod.resource_claims)
    if claims:
        return (
            f"the scheduler {pod.scheduler} has not looked at it, and does so when its resource claims are there: "
            f"{claims}. Make what is missing, or correct spec.worker.resourceClaims."
        )
    return (
        f"the scheduler {pod.scheduler} has not looked at it. See that it runs, or correct spec.worker.schedulerName."
    )


def _creation_problem(children: Children, owner: Child) -> Problem | None:
    """Returns the problem of creating pods: a Deployment reports it in its conditions, a Job only in Events."""
    failure = owner.true_condition("ReplicaFailure")
    message = failure.get("message", "") if failure else ""
    if not message and isinstance(owner, JobView) and owner.state is JobState.ACTIVE:
        made = max((pod.created_at for pod in children.pods_of(owner)), default=owner.created_at)
        events = [event for event in children.events_about(owner, "FailedCreate") if event.at >= made]
        message = events[-1].message if events else ""
    if not message:
        return None
    reason = refusal_reason(message, Reason.POD_REFUSED)
    return Problem(reason, shortened(f"The API server refuses the pod: {_without_pod_name(message)}"))


def _without_pod_name(message: str) -> str:
    """Removes the pod's name, which differs for each attempt: a message that changes would cause a write each time."""
    message = re.sub(r"^Error creating: ", "", message)
    return re.sub(r'pods "[^"]*" is', "it is", message)
