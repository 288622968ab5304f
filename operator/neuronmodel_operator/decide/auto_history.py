"""The history that `Auto` learns from, taken from `status.starts`: how often the same weights are loaded, and at what
rates."""

from collections.abc import Iterable

from neuronmodel_api.config import History
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.report import Stage
from neuronmodel_api.status import Outcome, Start
from neuronmodel_operator.decide.situation import Situation


def history(s: Situation) -> History:
    starts = [start for start in s.asked.status.starts if start.outcome is not Outcome.FAILED]
    ready = [start for start in starts if start.outcome is Outcome.READY]
    contents = {start.source_content for start in ready if start.source_content}
    return History(
        former_strategy=s.children.in_force.strategy if s.children.in_force else None,
        # The one that is prepared for counts, whether the status has it by now or not.
        starts=len(ready) + 1 if ready else 0,
        sources=max(len(contents), 1) if ready else 0,
        read_bytes_per_second=_rate(starts, "Artifacts", StartPhase.READ),
        sharded_bytes_per_second=_rate(starts, "Source", StartPhase.SHARDED),
    )


def _rate(starts: Iterable[Start], tier: str, phase: StartPhase) -> int | None:
    """Returns the rate of the latest start that loaded from this tier, or None; `starts` begins with the newest."""
    rates = (
        found.bytes_per_second
        for start in starts
        if start.tier == tier
        for found in start.phases
        if (found.stage, found.name) == (Stage.SERVE, phase)
    )
    return next((rate for rate in rates if rate), None)
