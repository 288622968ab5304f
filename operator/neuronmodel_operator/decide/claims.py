"""Problems of claims and what they wait for: by their own state, the Events about them, and the scheduler.

None of these prevents a pod from being created: a volume is often provisioned for the first pod that uses it, and a
worker that answers continues whatever happens to its claims.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.failures import Problem
from neuronmodel_operator.decide.scheduler_message import awaits_binding, in_short, lacks_volumes
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.objects import ClaimView, EventView, PodView
from neuronmodel_operator.state.observed import mounted_claims
from neuronmodel_operator.wording import sentence, stable

PROVISIONED_WITHIN: Final = timedelta(minutes=10)
"""How long a provisioner may take: a file system of FSx for Lustre is created in about eight minutes."""
MAX_EVENT_TEXT: Final = 350
"""The most characters of an Event's message that are quoted, so that the text after it still fits."""

_FAILURES: Final = frozenset({"ProvisioningFailed", "FailedBinding", "VolumeMismatch", "ClaimLost", "ClaimMisbound"})
"""Events of any type: that there is no volume and no class is a Normal one."""
_TRIES: Final = frozenset({"Provisioning", "ProvisioningCleanupFailed"})
"""Events of a provisioner that say nothing about the outcome of its attempt."""
_BY_FIRST_CONSUMER: Final = frozenset({"WaitForFirstConsumer", "WaitForPodScheduled"})
_COMBINED: Final = re.compile(r"^\(combined from similar events\): ")


@dataclass(frozen=True)
class Use:
    """What the NeuronModel needs a claim for."""

    claim: str
    field: str
    """The field of the spec."""
    condition: ConditionType
    """The condition that reports its problems."""
    loss: str
    """The consequence of losing it, as a sentence."""
    is_templated: bool = False


def claim_problem(s: Situation, condition: ConditionType) -> Problem | None:
    """Returns the problem of the claims that this condition reports; those that need action come before those that
    pass."""
    found = [problem for use in _uses(s.asked) if use.condition is condition and (problem := _problem(s, use))]
    return min(found, key=lambda problem: problem.passes, default=None)


def claim_wait(s: Situation, pod: PodView) -> Problem | None:
    """Returns the problem of a pod that has no node because it waits for a claim; None if it doesn't."""
    uses = [use for use in _uses(s.asked) if use.claim in pod.claims]
    found = [(use, problem) for use in uses if (problem := _problem(s, use))]
    use, problem = min(found, key=lambda one: one[1].passes, default=(None, None))
    if use is None:
        use = next((use for use in uses if s.children.is_missing(use.claim)), None)
    if use is None or use.condition is ConditionType.SCHEDULED:
        return problem
    message = f"The pod {pod.name} waits for the claim {use.claim}; {use.condition} says why."
    return Problem(Reason.WAITING_FOR_VOLUME, message, passes=True)


def terminating_claims(s: Situation) -> frozenset[str]:
    """Returns the names of the claims that are being deleted. Each remains as long as a pod that was scheduled with it
    exists, even an ended one."""
    views = (ClaimView(found) for use in _uses(s.asked) if (found := s.children.claim(use.claim).object) is not None)
    return frozenset(view.name for view in views if view.is_terminating)


def _uses(asked: Asked) -> tuple[Use, ...]:
    source, scratch = asked.spec.model.source.persistent_volume_claim, asked.spec.scratch.persistent_volume_claim
    mounted = sorted(mounted_claims(asked.spec.worker.volumes))
    uses = [
        Use(
            asked.artifacts_claim,
            "spec.artifacts",
            ConditionType.ARTIFACTS_READY,
            "The next start finds nothing of what was prepared.",
            is_templated=asked.spec.artifacts.template is not None,
        )
    ]
    if source:
        loss = "Without a checkpoint nothing is prepared or started."
        uses.append(Use(source.claim_name, "spec.model.source", ConditionType.SOURCE_RESOLVED, loss))
    if scratch:
        loss = "The copies on it go, and no start does without it."
        uses.append(Use(scratch.claim_name, "spec.scratch", ConditionType.SCHEDULED, loss))
    loss = "No worker starts without it."
    return (*uses, *(Use(name, "spec.worker.volumes", ConditionType.SCHEDULED, loss) for name in mounted))


# Problems of a single claim.


def _problem(s: Situation, use: Use) -> Problem | None:
    found = s.children.claim(use.claim).object
    if found is None or (use.is_templated and s.asked.has_foreign_claim):
        return None
    claim = ClaimView(found)
    if claim.is_terminating:
        return _terminating(s.children, claim, use)
    if claim.is_lost:
        return _lost(s, claim, use)
    return _pending(s, claim, use) if claim.is_pending else None


def _terminating(children: Children, claim: ClaimView, use: Use) -> Problem:
    holders = ", ".join(pod.name for pod in children.pods if claim.name in pod.claims and pod.node)
    who = f" ({holders})" if holders else ""
    if use.is_templated:
        then = (
            "It is made anew from the template then, and prepare builds again. A new value of the annotation "
            "neuronmodel.dev/restart has it over with."
        )
    else:
        then = f"Make it anew when it has gone, or name another in {use.field}."
    return Problem(
        Reason.CLAIM_TERMINATING,
        f"The claim {claim.name} is being deleted, and goes with the last pod that mounted it{who}. {use.loss} {then}",
    )


def _lost(s: Situation, claim: ClaimView, use: Use) -> Problem:
    failure = _failure(s, claim)
    text = _event_text(failure) if failure else "its PersistentVolume is gone."
    if use.is_templated:
        then = "Delete the claim: it is made anew from the template, and prepare builds again."
    else:
        then = f"Make the claim anew, or name another in {use.field}."
    return Problem(Reason.CLAIM_LOST, f"The claim {claim.name} has lost its volume: {text} {use.loss} {then}")


def _pending(s: Situation, claim: ClaimView, use: Use) -> Problem | None:
    if failure := _failure(s, claim):
        return _unfilled(claim, use, f"gets no volume: {_event_text(failure)}")
    waiting = [
        pod for pod in s.children.pods if claim.name in pod.claims and pod.node is None and not pod.is_terminating
    ]
    for pod in waiting:
        if pod.unschedulable is not None and lacks_volumes(pod.unschedulable):
            return _unplaceable(s, claim, use, pod)
    since = min((pod.created_at for pod in waiting if _is_being_made(s, claim, pod)), default=None)
    if since is None:
        return None
    text = _latest_event_text(s, claim)
    if s.now - since >= PROVISIONED_WITHIN:
        minutes = PROVISIONED_WITHIN // timedelta(minutes=1)
        return _unfilled(claim, use, f"has no volume after more than {minutes} minutes. {text}".rstrip())
    return Problem(
        Reason.WAITING_FOR_VOLUME, f"The claim {_described(claim)} waits for its volume. {text}".rstrip(), passes=True
    )


def _unplaceable(s: Situation, claim: ClaimView, use: Use, pod: PodView) -> Problem:
    """Returns the problem of a claim for which the scheduler finds no volume. If several claims wait for one pod, the
    scheduler does not say which of them it is."""
    text = in_short(pod.unschedulable or "")
    views = {
        use.claim: ClaimView(found)
        for use in _uses(s.asked)
        if (found := s.children.claim(use.claim).object) is not None
    }
    waiting = [view for name, view in sorted(views.items()) if view.is_pending and name in pod.claims]
    if len(waiting) == 1:
        return _unfilled(claim, use, f"gets no volume: {text}")
    claims = ", ".join(_described(view) for view in waiting)
    remedy = "Mend that, or make those anew that there are no volumes for, with another class or size."
    return Problem(Reason.CLAIM_PENDING, f"No node has volumes for all of the claims {claims}: {text} {remedy}")


def _unfilled(claim: ClaimView, use: Use, what: str) -> Problem:
    if use.is_templated:
        instead = "name a claim of your own in spec.artifacts.persistentVolumeClaim"
    else:
        instead = f"make the claim anew with a class and size that there are volumes of, or name another in {use.field}"
    return Problem(Reason.CLAIM_PENDING, f"The claim {_described(claim)} {what} Mend that, or {instead}.")


def _described(claim: ClaimView) -> str:
    named = f", of volume {claim.volume}" if claim.volume else ""
    kind = f"class {claim.storage_class}" if claim.storage_class else "without a class"
    return f"{claim.name} ({kind}, {claim.size}, {', '.join(claim.access_modes)}{named})"


def _is_being_made(s: Situation, claim: ClaimView, pod: PodView) -> bool:
    """Whether the volume is being provisioned. A scheduler that has chosen a node for a volume reports nothing about
    the pod until the volume exists."""
    if claim.selected_node:
        return True
    latest = _latest(s, claim)
    is_by_first_consumer = latest is not None and latest.reason in _BY_FIRST_CONSUMER
    return awaits_binding(pod.unschedulable or "") and not is_by_first_consumer


def _events(s: Situation, claim: ClaimView) -> list[EventView]:
    """Returns the Events about a claim, oldest first, without those that say nothing."""
    views = (EventView(event) for event in s.observed.events)
    return [event for event in views if event.about_uid == claim.uid and event.reason not in _TRIES]


def _latest(s: Situation, claim: ClaimView) -> EventView | None:
    return next(reversed(_events(s, claim)), None)


def _failure(s: Situation, claim: ClaimView) -> EventView | None:
    """Returns the latest Event of a provisioner if it reports a failure; of several provisioners always the same
    one."""
    last = {event.source: event for event in _events(s, claim)}
    return min(
        (event for event in last.values() if event.reason in _FAILURES), key=lambda event: event.source, default=None
    )


def _latest_event_text(s: Situation, claim: ClaimView) -> str:
    latest = _latest(s, claim)
    text = _event_text(latest) if latest else ""
    return text[:1].upper() + text[1:]


def _event_text(event: EventView) -> str:
    """Returns the message of an Event without numbers that differ each time, as provisioners number their requests."""
    return sentence(stable(_COMBINED.sub("", " ".join(event.message.split()))), MAX_EVENT_TEXT)
