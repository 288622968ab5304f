"""A source on a network: where it is by now, how often that is asked, and which reasons are of its server."""

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.reasons import Reason
from neuronmodel_operator.decide.situation import Situation


def is_of_source(reason: str) -> bool:
    """Whether SourceResolved shows what a worker fails with, or notes, for this reason."""
    known = Reason.known(reason)
    return known is not None and known.condition is ConditionType.SOURCE_RESOLVED


def check_seconds(s: Situation) -> int | None:
    """Returns how often a worker that answers asks whether the source has moved; None for never."""
    source = s.asked.spec.model.source.on_network
    return s.settings.sources[type(source)].check_seconds if source else None


def latest_revision(s: Situation) -> str | None:
    """Returns the revision that the source was at when it was last asked: what a worker says that serves the present
    one, else what `status` remembers of it; None if nobody has asked. Of several workers, one that has seen it move
    counts."""
    prepared = s.artifacts.latest
    source = prepared.result.source if prepared else None
    if source is None:
        return None
    served = s.children.in_force.result.source if s.children.in_force else None
    reports = [s.children.report(pod) for pod in s.children.current_pods] if served == source else []
    said = {report.latest_revision for report in reports if report and report.latest_revision}
    if said:
        return max(said - {source.revision}, default=source.revision)
    before = s.asked.status.source
    if before and (before.revision, before.resolved_at) == (source.revision, source.resolved_at):
        return before.latest_revision
    return None
