"""Strategy, source, artifacts and sizing in `status`: what is in force and why, what of it is on the volume, and what a
start of it needs."""

from typing import Final

from neuronmodel_api.config import Strategy
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import Report, Sealing, SealingState
from neuronmodel_api.status import (
    ArtifactsStatus,
    CacheResult,
    ChoiceInputs,
    SizingStatus,
    SourceStatus,
    StrategyStatus,
)
from neuronmodel_operator.decide.asked import Asked
from neuronmodel_operator.decide.children import Children
from neuronmodel_operator.decide.network_source import latest_revision
from neuronmodel_operator.decide.situation import Situation

_KEPT: Final = (
    "What an absent strategy meant to the version that prepared this; set spec.sharding.strategy to Auto to have one "
    "chosen."
)
_SETTLED: Final = frozenset({SealingState.SEALED, SealingState.FAILED})
_UNSETTLED: Final = frozenset({SealingState.PENDING, SealingState.WRITING})


def strategy_status(s: Situation) -> StrategyStatus:
    if s.asked.strategy is not Strategy.AUTO:
        if s.asked.spec.sharding.strategy:
            return StrategyStatus(in_force=s.artifacts.strategy, reason=Reason.SPECIFIED)
        return StrategyStatus(in_force=s.artifacts.strategy, reason=Reason.NOT_SPECIFIED, message=_KEPT)
    if s.artifacts.prepared is None:
        return StrategyStatus(
            in_force=Strategy.AUTO, reason=Reason.NOT_CHOSEN_YET, message="The Job `prepare` measures and chooses."
        )
    choice = s.artifacts.prepared.result.choice
    if choice is None:
        return StrategyStatus(in_force=s.artifacts.strategy, reason=Reason.CHOSEN)
    return StrategyStatus(
        in_force=s.artifacts.strategy,
        reason=choice.reason,
        message=choice.message,
        inputs=ChoiceInputs.model_validate(choice.model_dump()),
    )


def artifacts_status(s: Situation) -> ArtifactsStatus:
    prepared = s.artifacts.latest
    if prepared is None:
        return ArtifactsStatus(claim_name=s.asked.artifacts_claim)
    result = prepared.result
    return ArtifactsStatus(
        claim_name=s.asked.artifacts_claim,
        compiled_key=result.compiled_key,
        shards_key=result.shards_key,
        cache=CacheResult(result.cache),
        compiled_cache=CacheResult(result.compiled_cache) if result.compiled_cache else None,
        shards_cache=CacheResult(result.shards_cache) if result.shards_cache else None,
        missed=result.missed,
        missed_because=result.missed_because,
        bytes=result.bytes,
        server=result.server.description if result.server else None,
        sealing=_sealing(s, result.shards_key),
    )


def source_status(s: Situation) -> SourceStatus | None:
    prepared = s.artifacts.latest
    source = prepared.result.source if prepared else None
    if source is None:
        return None
    return SourceStatus.model_validate(source.model_dump() | {"latest_revision": latest_revision(s)})


def sizing_status(s: Situation) -> SizingStatus | None:
    prepared = s.artifacts.latest
    sizing = prepared.result.sizing if prepared else None
    return SizingStatus.model_validate(sizing.model_dump()) if sizing else None


def sealings(children: Children) -> tuple[Sealing, ...]:
    """Returns the sealing states of the workers that serve the present spec."""
    reports = _reports(children)
    return tuple(report.sealing for report in reports if report.sealing)


def is_sealing(children: Children) -> bool:
    return any(sealing.state in _UNSETTLED for sealing in sealings(children))


def _sealing(s: Situation, shards_key: str | None) -> SealingState | None:
    """Returns the state of sealing. Several workers may seal the same shards: one that is done is enough, and one that
    is still writing outweighs a failure."""
    if not s.artifacts.seals_behind or not s.artifacts.is_current:
        return None
    states = {sealing.state for sealing in sealings(s.children)}
    order = (SealingState.SEALED, SealingState.WRITING, SealingState.PENDING, SealingState.FAILED)
    if found := next((state for state in order if state in states), None):
        return found
    reports = _reports(s.children)
    if any(report.tier in ("Artifacts", "Scratch") for report in reports):
        return SealingState.SEALED
    return _former(s.asked, shards_key, has_reports=bool(reports))


def _former(asked: Asked, shards_key: str | None, *, has_reports: bool) -> SealingState | None:
    """Returns the state as it was last written, unless the shards existed only in the memory of a worker that has
    restarted."""
    before = asked.status.artifacts
    if before is None or before.sealing is None or before.shards_key != shards_key:
        return None
    state = next((state for state in SealingState if state == before.sealing), None)
    return state if state in _SETTLED or not has_reports else None


def _reports(children: Children) -> list[Report]:
    found = (children.report(pod) for pod in children.current_pods)
    return [report for report in found if report]
