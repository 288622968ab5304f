"""One look at the cluster, interpreted: the spec, what was prepared, what exists. The conditions are decided from
it."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, wraps
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from neuronmodel_operator.decide.artifacts import PreparedArtifacts
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.settings import Settings
from neuronmodel_operator.state.objects import PodView
from neuronmodel_operator.state.observed import Observed, Refusal

RESULT_GRACE: Final = timedelta(seconds=30)
"""How long after a Job's success its pod's message may take to appear before the result counts as lost."""
READY_REPORT_GRACE: Final = timedelta(seconds=5)
"""How long the last report of a ready pod may take; with it the timings of a start are complete."""


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Situation:
    observed: Observed
    now: datetime
    settings: Settings
    decided: dict[Hashable, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    """Answers of functions that are `once_a_look`."""

    @cached_property
    def children(self) -> Children:
        return Children(self.observed)

    @cached_property
    def asked(self) -> Asked:
        return Asked(self.children, self.settings)

    @cached_property
    def artifacts(self) -> PreparedArtifacts:
        return PreparedArtifacts(self.asked)

    @cached_property
    def ready_pods(self) -> tuple[PodView, ...]:
        """Pods that serve the present spec, once their last report has arrived or is overdue."""
        if not self.artifacts.is_current:
            return ()
        return tuple(
            pod for pod in self.children.current_pods if pod.ready_at and self._has_reported(pod, pod.ready_at)
        )

    def _has_reported(self, pod: PodView, ready_at: datetime) -> bool:
        report = self.children.report(pod)
        return bool(report and report.ready_at) or self.now - ready_at >= READY_REPORT_GRACE

    def refusal(self, kinds: Iterable[str], verb: Literal["write", "delete"] = "write") -> Refusal | None:
        """Returns the refusal of a currently wanted write to one of these kinds, or None."""
        return next((r for r in self.observed.refusals if r.kind in kinds and r.verb == verb), None)

    @property
    def is_acted_on(self) -> bool:
        """Whether everything that the spec requests has been written."""
        return not any(refusal.verb == "write" for refusal in self.observed.refusals)


def once_a_look(decide: Callable[Concatenate[Situation, P], T]) -> Callable[Concatenate[Situation, P], T]:
    """Remembers what a function decides of a situation: several conditions ask for the same, and rendering a pod takes
    a millisecond."""

    @wraps(decide)
    def decided(s: Situation, /, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (decide, args, tuple(kwargs.items()))
        if key not in s.decided:
            s.decided[key] = decide(s, *args, **kwargs)
        found: T = s.decided[key]
        return found

    return decided
