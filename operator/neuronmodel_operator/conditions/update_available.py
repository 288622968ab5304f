"""UpdateAvailable: this operator would render the worker differently, or the source has moved on. It wants nothing, as
it restarts nobody."""

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.conditions.verdict import ConditionResult, Verdict, holds, refused, waits
from neuronmodel_operator.decide.network_source import latest_revision
from neuronmodel_operator.decide.rollout import pending_update
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.deployment import stored

_HOW = "It is taken up with the next change of the spec, or with a new value of the annotation neuronmodel.dev/restart."


def update(s: Situation) -> ConditionResult:
    if s.children.deployment is None:
        return ConditionResult(waits(Reason.NO_WORKER, "There is no worker yet."))
    found = [verdict for verdict in (_revision(s), _rendering(s)) if verdict]
    if not found:
        return ConditionResult(refused(Reason.UP_TO_DATE, "The worker is as this operator makes it."))
    return ConditionResult(holds(found[0].reason, " ".join(verdict.message for verdict in found)))


def _rendering(s: Situation) -> Verdict | None:
    kept = stored(s.children.deployment.object) if s.children.deployment else None
    pending = pending_update(s)
    if pending is None or kept is None:
        return None
    if pending.image != kept.image:
        return holds(
            Reason.NEW_IMAGE, f"The worker runs {kept.image}; the operator is configured for {pending.image}. {_HOW}"
        )
    return holds(Reason.NEW_RENDERING, f"This operator, as it is installed now, makes the pod otherwise. {_HOW}")


def _revision(s: Situation) -> Verdict | None:
    source = s.asked.spec.model.source.on_network
    served = s.children.in_force.result.source if s.children.in_force else None
    if source is None or served is None or not s.artifacts.is_current:
        return None
    latest = latest_revision(s)
    if latest in (None, served.revision):
        return None
    return holds(
        Reason.NEW_REVISION,
        f"{source.served_at(served.revision)} is at {latest} now. A new value of the annotation "
        "neuronmodel.dev/restart has it prepared and served.",
    )
