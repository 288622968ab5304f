"""Ready: the NeuronModel answers. It wants the Service; while nothing answers, it summarizes the other conditions."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.conditions.verdict import ConditionResult, Verdict, holds, refused, verdict_on, waits
from neuronmodel_operator.decide.network_source import is_of_source
from neuronmodel_operator.decide.refused_writes import write_problem
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.diff import diff
from neuronmodel_operator.manifests.service import service
from neuronmodel_operator.state.objects import Child
from neuronmodel_operator.state.observed import Refusal
from neuronmodel_operator.state.plan import Manifest, ObjectRef

WAITS_FOR_ANOTHER: Final = frozenset(
    {Reason.WAITING_FOR_PREPARE, Reason.WAITING_FOR_SOURCE, Reason.WAITING_FOR_PLACEMENT, Reason.WAITING_FOR_ARTIFACTS}
)
"""Reasons that refer to another condition, which says more."""
OF_THE_NEXT_START: Final = frozenset(
    {
        Reason.CLAIM_TERMINATING,
        Reason.CLAIM_LOST,
        Reason.SOURCE_CLAIM_MISSING,
        Reason.ARTIFACTS_CLAIM_MISSING,
        Reason.SCRATCH_CLAIM_MISSING,
    }
)
"""Reasons of claims that affect only the next start: a pod keeps the volumes that it has mounted."""


def ready(s: Situation, others: Iterable[Verdict]) -> ConditionResult:
    return ConditionResult(verdict=_verdict(s, tuple(others)), delete=_spoiled_service(s), apply=_service(s))


def _service(s: Situation) -> tuple[Manifest, ...]:
    wanted = service(s.asked.model)
    return () if diff(s.observed.service, wanted) is None else (wanted,)


def _spoiled_service(s: Situation) -> tuple[ObjectRef, ...]:
    """Returns the Service if somebody's edit conflicts with ours (two ports of one name), so that it is recreated."""
    refusal = s.refusal(("Service",))
    if s.observed.service is None or refusal is None or refusal.reason != "Invalid":
        return ()
    child = Child(s.observed.service)
    return () if child.is_terminating else (ObjectRef("v1", "Service", child.name, child.uid),)


def _verdict(s: Situation, others: tuple[Verdict, ...]) -> Verdict:
    failed = next((verdict for verdict in others if verdict.status == "False"), None)
    if refusal := _refusal(s) or _undeleted(s, others):
        return _while_serving(s, verdict_on(write_problem(refusal)))
    if s.asked.spec.suspend:
        # Nothing is meant to answer, but a failing preparation is still worth reporting.
        return failed or refused(Reason.SUSPENDED, "spec.suspend is true: no worker is wanted.")
    if s.asked.spec.serving.replicas == 0:
        return failed or refused(Reason.SCALED_TO_ZERO, "spec.serving.replicas is 0: no worker is wanted.")
    if s.asked.unshareable_claim and (failed is None or _is_serving(s)):
        return refused(
            Reason.REPLICAS_NEED_SHARED_VOLUME,
            f"{s.asked.spec.serving.replicas} replicas can't share the claim {s.asked.unshareable_claim}, which one "
            "node alone may mount; one is kept. Use a claim with ReadWriteMany (a source may be ReadOnlyMany), or one "
            "replica.",
        )
    if _is_serving(s):
        return holds(Reason.SERVING, f"{len(s.ready_pods)} of {s.asked.replicas} workers answer.{_next_start(failed)}")
    if failed:
        return _while_serving(s, failed)
    unknown = [verdict for verdict in others if verdict.status == "Unknown" and not is_of_source(verdict.reason)]
    first = next((verdict for verdict in unknown if verdict.reason not in WAITS_FOR_ANOTHER), next(iter(unknown), None))
    return _while_serving(s, first) if first else waits(Reason.STARTING, "The worker is about to answer.")


def _refusal(s: Situation) -> Refusal | None:
    """Returns a refusal that no other condition reports: of the Service, or of our finalizer on the NeuronModel."""
    if _spoiled_service(s):
        return None  # it is recreated
    return s.refusal(("Service", names.KIND)) or s.refusal(("Service",), verb="delete")


def _undeleted(s: Situation, others: tuple[Verdict, ...]) -> Refusal | None:
    """Returns a refused deletion that blocks the requested state, if no other condition mentions it."""
    if _is_serving(s):
        return None
    said = " ".join(verdict.message for verdict in others)
    deletions = (refusal for refusal in s.observed.refusals if refusal.verb == "delete")
    return next((refusal for refusal in deletions if write_problem(refusal).message not in said), None)


def _is_serving(s: Situation) -> bool:
    return bool(s.ready_pods) and s.is_acted_on


def _next_start(failed: Verdict | None) -> str:
    """Returns a sentence on a failure that affects the next start but not the worker that answers."""
    if failed is None or failed.reason not in OF_THE_NEXT_START:
        return ""
    return f" The next start is in question ({failed.reason}): {failed.message}"


def _while_serving(s: Situation, verdict: Verdict) -> Verdict:
    return replace(verdict, message=verdict.message + _still_serving(s))


def _still_serving(s: Situation) -> str:
    if not s.children.is_answering:
        return ""
    if s.artifacts.is_current:
        return " Meanwhile the worker goes on answering."
    return " Meanwhile the worker of the former spec goes on answering."
