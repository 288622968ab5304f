"""What keeps a pod from being made and from getting a node: by its controller, the scheduler and the pod's claims."""

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
"""How long a scheduler may take to say something of a pod, and to try again what failed."""


def placement_problem(s: Situation, pods: tuple[PodView, ...], owner: Child | None) -> Problem | None:
    """Of the pods that one Job or Deployment should have."""
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
    """What the scheduler said of a claim which has come since."""
    claim = claim_not_there(pod.unschedulable or "")
    found = children.claim(claim).object if claim else None
    return found is not None and not ClaimView(found).is_terminating


def _scheduler_error(s: Situation, pod: PodView) -> str | None:
    """What failed as a node had been found: of the moment, often, and tried again."""
    error = pod.scheduler_error
    return error.message if error and s.now - (error.since or s.now) >= UNSEEN_FOR else None


def _unseen(s: Situation, pod: PodView) -> str | None:
    """Why the scheduler says nothing of a pod: what it waits for before it looks is only partly told, in an Event."""
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
    """A Deployment says so in its conditions, a Job only in Events."""
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
    """Each try has another name, and a message that changes would be a write each."""
    message = re.sub(r"^Error creating: ", "", message)
    return re.sub(r'pods "[^"]*" is', "it is", message)
