"""What a condition reports and wants."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from neuronmodel_api.status import ConditionStatus
from neuronmodel_operator.decide.failures import Problem
from neuronmodel_operator.state.objects import Child, JobView
from neuronmodel_operator.state.plan import EventNote, Manifest, ObjectRef

MISSING_CLAIM_CHECK = timedelta(seconds=10)
"""How often to look for a missing claim: the user's claims are not children, so no watch reports them."""


@dataclass(frozen=True)
class Verdict:
    """A condition without its times."""

    status: ConditionStatus
    reason: str
    message: str


@dataclass(frozen=True)
class ConditionResult:
    verdict: Verdict
    delete: tuple[ObjectRef, ...] = ()
    apply: tuple[Manifest, ...] = ()
    create: tuple[Manifest, ...] = ()
    events: tuple[EventNote, ...] = ()
    wake_after: timedelta | None = None


def holds(reason: str, message: str) -> Verdict:
    return Verdict("True", reason, message)


def refused(reason: str, message: str) -> Verdict:
    return Verdict("False", reason, message)


def waits(reason: str, message: str) -> Verdict:
    return Verdict("Unknown", reason, message)


def verdict_on(problem: Problem) -> Verdict:
    if problem.passes:
        return waits(problem.reason, problem.message)
    return refused(problem.reason, problem.message)


def soonest(moments: Iterable[timedelta | None]) -> timedelta | None:
    return min((moment for moment in moments if moment is not None), default=None)


def reference(child: Child) -> ObjectRef:
    kind, api_version = ("Job", "batch/v1") if isinstance(child, JobView) else ("Deployment", "apps/v1")
    return ObjectRef(api_version, kind, child.name, child.uid)
