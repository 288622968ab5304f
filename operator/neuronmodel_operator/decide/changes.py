"""When the present spec was first requested: the origin of a start that a user caused.

The time is recorded on the objects that are created because of it (Job, Deployment) and in the open start of `status`;
whichever of them was written before the operator was killed restores it.
"""

from collections.abc import Iterable

from neuronmodel_api.reasons import Reason
from neuronmodel_api.status import Cause, Outcome, Start
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.situation import Situation
from neuronmodel_operator.state.annotations import Change

CHANGES = frozenset({Cause.CREATED, Cause.SPEC_CHANGED})
TARGET_ID = "target-"


def open_start(starts: Iterable[Start]) -> Start | None:
    newest = next(iter(starts), None)
    return newest if newest and newest.outcome is Outcome.RUNNING else None


def target_id(asked: Asked) -> str:
    """Returns the ID of a start that has no pod yet. It is not derived from the generation, which also counts changes
    that cause no start."""
    return f"{TARGET_ID}{asked.target}"


def change_in_force(s: Situation) -> Change:
    """Returns the change that requested the present target, or one observed now if none is recorded."""
    carried = _carried(s)
    if s.asked.replicas == 0:
        return carried[0] if carried else Change(cause=None, observed_at=s.now, target=s.asked.target)
    started = open_start(s.asked.status.starts)
    if started and started.cause in CHANGES and _belongs(s.asked, started, carried):
        return Change(cause=started.cause, observed_at=started.started_at, target=s.asked.target)
    if unrecorded := [change for change in carried if is_unrecorded(s.asked, change)]:
        return unrecorded[0]
    if carried and not _resumes(s, carried):
        return carried[0]
    return _observed_now(s)


def is_unrecorded(asked: Asked, change: Change) -> bool:
    """Whether no start was recorded for the change: the operator was killed between creating objects and writing
    status."""
    newest = max((start.started_at for start in asked.status.starts), default=None)
    return change.cause is not None and (newest is None or change.observed_at > newest)


def _carried(s: Situation) -> list[Change]:
    """Returns the changes recorded on children of the present target, newest first."""
    children = [*s.children.jobs, *([s.children.deployment] if s.children.deployment else [])]
    changes = [child.change for child in children if child.change and child.change.target == s.asked.target]
    return sorted(changes, key=lambda change: change.observed_at, reverse=True)


def _belongs(asked: Asked, started: Start, carried: list[Change]) -> bool:
    if not carried:
        return started.id == target_id(asked)
    return started.started_at >= max(change.observed_at for change in carried)


def _resumes(s: Situation, carried: list[Change]) -> bool:
    """Whether replicas are requested again after there were none: the time in between counts in no start."""
    if s.children.deployment:
        return not s.children.deployment.object["spec"].get("replicas", 1)
    newest = next(iter(s.asked.status.starts), None)
    return all(change.cause is None for change in carried) or bool(newest and newest.reason == Reason.STOPPED)


def _observed_now(s: Situation) -> Change:
    if s.asked.status.observed_generation is None:
        return Change(cause=Cause.CREATED, observed_at=s.asked.model.created_at, target=s.asked.target)
    return Change(cause=Cause.SPEC_CHANGED, observed_at=s.now, target=s.asked.target)
