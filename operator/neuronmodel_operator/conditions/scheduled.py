"""Scheduled: the pod that is needed now has a node. It wants nothing, and waits for the scheduler."""

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.conditions.verdict import (
    MISSING_CLAIM_CHECK,
    ConditionResult,
    Verdict,
    holds,
    verdict_on,
    waits,
)
from neuronmodel_operator.decide import prepare_attempts
from neuronmodel_operator.decide.claims import claim_problem
from neuronmodel_operator.decide.placement import placement_problem
from neuronmodel_operator.decide.preconditions import unmet_placement_precondition
from neuronmodel_operator.decide.refused_writes import write_problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.objects import Child, JobState, PodView


def scheduled(s: Situation) -> ConditionResult:
    if found := unmet_placement_precondition(s):
        return ConditionResult(verdict_on(found), wake_after=MISSING_CLAIM_CHECK)
    if refusal := s.refusal(("Job", "Deployment")):
        return ConditionResult(verdict_on(write_problem(refusal)))
    if found := claim_problem(s, ConditionType.SCHEDULED):
        return ConditionResult(verdict_on(found))
    return ConditionResult(_verdict(s))


def _verdict(s: Situation) -> Verdict:
    job = prepare_attempts.unsettled_job(s.artifacts)
    if job and job.state is JobState.ACTIVE:
        return _pods_verdict(s, tuple(pod for pod in s.children.pods_of(job) if not pod.has_ended), job)
    if s.asked.replicas == 0:
        return waits(Reason.STOPPED, "No worker is wanted.")
    if s.artifacts.prepared and not s.artifacts.is_current and not s.artifacts.rejection:
        return waits(Reason.WAITING_FOR_POD, "The worker's Deployment is being made.")
    if s.children.deployment is None or not s.artifacts.is_current:
        return waits(Reason.WAITING_FOR_ARTIFACTS, "The worker's pod is made when everything it loads is there.")
    return _pods_verdict(s, s.children.current_pods, s.children.deployment)


def _pods_verdict(s: Situation, pods: tuple[PodView, ...], owner: Child) -> Verdict:
    if problem := placement_problem(s, pods, owner):
        return verdict_on(problem)
    unplaced = [pod for pod in pods if pod.node is None]
    if unplaced or not pods:
        what = (
            f"The pod {unplaced[0].name} waits for a node." if unplaced else f"The pod of {owner.name} is being made."
        )
        return waits(Reason.WAITING_FOR_NODE if unplaced else Reason.WAITING_FOR_POD, what)
    nodes = ", ".join(sorted({pod.node for pod in pods if pod.node}))
    return holds(Reason.PLACED, f"On node {nodes}.")
