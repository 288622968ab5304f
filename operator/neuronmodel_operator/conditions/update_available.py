"""UpdateAvailable: this operator would render the worker differently. It wants nothing, as it restarts nobody."""

from neuronmodel_api.reasons import Reason
from neuronmodel_operator.conditions.verdict import ConditionResult, holds, refused, waits
from neuronmodel_operator.decide.rollout import pending_update
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.manifests.deployment import stored

_HOW = "It is taken up with the next change of the spec, or with a new value of the annotation neuronmodel.dev/restart."


def update(s: Situation) -> ConditionResult:
    if s.children.deployment is None:
        return ConditionResult(waits(Reason.NO_WORKER, "There is no worker yet."))
    pending, kept = pending_update(s), stored(s.children.deployment.object)
    if pending is None or kept is None:
        return ConditionResult(refused(Reason.UP_TO_DATE, "The worker is as this operator makes it."))
    if pending.image != kept.image:
        return ConditionResult(
            holds(
                Reason.NEW_IMAGE,
                f"The worker runs {kept.image}; the operator is configured for {pending.image}. {_HOW}",
            )
        )
    return ConditionResult(holds(Reason.NEW_RENDERING, f"This version of the operator makes the pod otherwise. {_HOW}"))
