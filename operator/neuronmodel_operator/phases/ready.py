"""Ready: the NeuronModel answers. Wants the Service; the summary of the other conditions while it doesn't."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from neuronmodel_api import names
from neuronmodel_operator.drift import is_as_wanted
from neuronmodel_operator.manifests.service import service
from neuronmodel_operator.observed import Refusal
from neuronmodel_operator.phases.step import Step, Verdict, holds, refused, waits
from neuronmodel_operator.plan import Manifest, ObjectRef
from neuronmodel_operator.situation import Situation
from neuronmodel_operator.views import Child
from neuronmodel_operator.write_troubles import write_trouble, written

WAITS_FOR_ANOTHER: Final = frozenset(
    {"WaitingForPrepare", "WaitingForSource", "WaitingForPlacement", "WaitingForArtifacts"}
)
"""Reasons that point to another condition, which says more."""


def ready(s: Situation, others: Iterable[Verdict]) -> Step:
    return Step(verdict=_verdict(s, tuple(others)), delete=_spoiled_service(s), apply=_service(s))


def _service(s: Situation) -> tuple[Manifest, ...]:
    wanted = service(s.model)
    return () if is_as_wanted(s.observed.service, wanted) else (wanted,)


def _spoiled_service(s: Situation) -> tuple[ObjectRef, ...]:
    """Somebody's edit and ours don't go together (two ports of one name): it is made anew."""
    refusal = s.refusal(("Service",))
    if s.observed.service is None or refusal is None or refusal.reason != "Invalid":
        return ()
    child = Child(s.observed.service)
    return () if child.is_going else (ObjectRef("v1", "Service", child.name, child.uid),)


def _verdict(s: Situation, others: tuple[Verdict, ...]) -> Verdict:
    if refusal := _refusal(s) or _undeleted(s, others):
        return _with_more(written(refusal), _still_serving(s))
    if s.spec.suspend:
        return _stopped("Suspended", "spec.suspend is true: no worker is wanted.", others)
    if s.spec.serving.replicas == 0:
        return _stopped("ScaledToZero", "spec.serving.replicas is 0: no worker is wanted.", others)
    if s.unshareable_claim:
        return refused(
            "ReplicasNeedSharedVolume",
            f"{s.spec.serving.replicas} replicas can't share the claim {s.unshareable_claim}, which one node alone may "
            "mount; one is kept. Use a claim with ReadWriteMany (a source may be ReadOnlyMany), or one replica.",
        )
    if _is_serving(s):
        return holds("Serving", f"{len(s.ready_pods)} of {s.replicas} workers answer.")
    if first := next((verdict for verdict in others if verdict.status == "False"), None):
        return refused(first.reason, first.message + _still_serving(s))
    unknown = [verdict for verdict in others if verdict.status == "Unknown"]
    first = next((verdict for verdict in unknown if verdict.reason not in WAITS_FOR_ANOTHER), next(iter(unknown), None))
    if first is None:
        return waits("Starting", "The worker is about to answer.")
    return waits(first.reason, first.message + _still_serving(s))


def _refusal(s: Situation) -> Refusal | None:
    """Of what no other condition is about: the Service, and our finalizer on the NeuronModel."""
    if _spoiled_service(s):
        return None  # it is made anew
    return s.refusal(("Service", names.KIND)) or s.refusal(("Service",), verb="delete")


def _undeleted(s: Situation, others: tuple[Verdict, ...]) -> Refusal | None:
    """What has to go before what is asked for can come, and whose condition has something else to say."""
    if _is_serving(s):
        return None
    said = " ".join(verdict.message for verdict in others)
    deletions = (refusal for refusal in s.observed.refusals if refusal.verb == "delete")
    return next((refusal for refusal in deletions if write_trouble(refusal).message not in said), None)


def _is_serving(s: Situation) -> bool:
    return bool(s.ready_pods) and s.is_acted_on


def _with_more(verdict: Verdict, more: str) -> Verdict:
    return replace(verdict, message=verdict.message + more)


def _stopped(reason: str, message: str, others: tuple[Verdict, ...]) -> Verdict:
    """That nothing answers is wanted; that preparing fails is not."""
    failed = next((verdict for verdict in others if verdict.status == "False"), None)
    return refused(failed.reason, failed.message) if failed else refused(reason, message)


def _still_serving(s: Situation) -> str:
    if not any(pod.ready_at for pod in s.current_pods):
        return ""
    if s.is_current:
        return " Meanwhile the worker goes on answering."
    return " Meanwhile the worker of the former spec goes on answering."
