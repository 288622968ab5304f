"""Opens and checks what `prepare` left for a start, and gets the rank tensors from it.

No engine's framework is imported and nothing compiled is loaded, so the worker's own server and our plugin in vLLM's
process get the tensors in the same way.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from neuronmodel_api.config import Seal, Strategy, Verification, Weights
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.artifact_keys import Wanted, plan_for, wanted_artifacts
from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.engines import ModelEngine
from neuronmodel_worker.failures import ArtifactsMissing, ArtifactsOutdated, BadInput, SourceChanged
from neuronmodel_worker.plan.native import NativePlan
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.run.context import ConfigurationInvalid, Run
from neuronmodel_worker.scratch_cache import Tier
from neuronmodel_worker.scratch_cache.checkpoint_copies import CopiedSource
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.sealing import SealingBehind
from neuronmodel_worker.serve.weights import Ranks, WeightsLoader
from neuronmodel_worker.store import COMPILED, SHARDS, ArtifactKind, SealedSet, Store
from neuronmodel_worker.store.source_records import recorded_content
from neuronmodel_worker.store.verification import VerifyProgress

log = logging.getLogger(__name__)


class PartialRanks(BadInput):
    reason = Reason.PARTIAL_RANKS

    def __init__(self, plan: StreamedPlan | NativePlan) -> None:
        super().__init__(
            f"Ranks {plan.ranks.start} to {plan.ranks.stop - 1} alone were prepared here, and a model answers with all "
            "of its ranks. Serve without start_rank_id and local_ranks_size, or let `prepare` be all of it."
        )


@dataclass(frozen=True)
class OpenedSource:
    """The checkpoint as it was prepared. If the scratch volume has a copy of it (`copied`), `plan` reads that copy."""

    checkpoint: Checkpoint
    plan: StreamedPlan | NativePlan
    content: str
    copied: CopiedSource | None = None


@dataclass(frozen=True)
class ArtifactSets:
    """The sealed sets of a start. `shards` is None if this start shards the checkpoint itself."""

    wanted: Wanted
    compiled: SealedSet
    shards: SealedSet | None

    @property
    def shards_directory(self) -> Path | None:
        return self.shards.directory if self.shards else None


@dataclass
class PreparedModel:
    """What `prepare` left for this model. Call `open`, `find` and `ranks` in this order.

    Work that can wait until the model answers is submitted to `background`; `tier` is None if the scratch volume keeps
    no copies.
    """

    job: Run
    background: Background
    tier: Tier | None = None
    only: Sequence[int] | None = None
    """The ranks that are loaded here; None for all."""
    source: OpenedSource = field(init=False)

    def open(self) -> OpenedSource:
        """Opens the checkpoint and makes the plan.

        Raises a BadInput for a checkpoint or flags that cannot be right, SourceChanged if the checkpoint is not the one
        that was prepared, and SourceUnreadable.
        """
        checkpoint = open_checkpoint(self.job.weights)
        expected, found = self.job.config.source_fingerprint, checkpoint.fingerprint
        if expected and expected != found:
            raise SourceChanged(self.job.weights.directory, f"its fingerprint is {found}, and {expected} was prepared")
        copied = self._weights.copied_source(checkpoint) if self._may_use_copy else None
        plan = self._plan(copied.checkpoint if copied else checkpoint)
        if not plan.is_whole:
            raise PartialRanks(plan)
        self.source = OpenedSource(checkpoint, plan, self._content(checkpoint, plan), copied)
        return self.source

    @cached_property
    def _weights(self) -> WeightsLoader:
        return WeightsLoader(self.job, self.background, self.tier, self.only)

    @property
    def _is_native(self) -> bool:
        return self.job.config.weights is Weights.NATIVE

    @property
    def _may_use_copy(self) -> bool:
        """Whether the checkpoint may be read from a copy. NxD Inference always reads the source itself."""
        return self.job.config.strategy is Strategy.SHARD_ON_LOAD and not self._is_native

    def _plan(self, checkpoint: Checkpoint) -> StreamedPlan | NativePlan:
        plan = plan_for(self.job.config, checkpoint)
        for warning in plan.warnings:
            log.warning(warning)
        return plan

    def _content(self, checkpoint: Checkpoint, plan: StreamedPlan | NativePlan) -> str:
        """Returns the content that `prepare` identified; without an operator, the one that the artifacts volume has on
        record."""
        given = self.job.config.source_content
        recorded = given or recorded_content(self.job.artifacts, checkpoint, tuple(plan.reads))
        return recorded or checkpoint.fingerprint

    def find(self, engine: ModelEngine, progress: VerifyProgress | None = None) -> ArtifactSets:
        """Finds and checks the sealed sets; `progress` is called with the number of bytes read for that.

        Raises ArtifactsOutdated if `prepare` returned other keys than it would now, ArtifactsMissing, ArtifactDamaged,
        ArtifactsTooNew and ArtifactsUnreadable.
        """
        wanted = wanted_artifacts(self.job.config, self.source.plan, engine, self.source.content)
        if self.job.config.compiled_key:
            self._check_prepared(wanted)
        return ArtifactSets(
            wanted, self._require(COMPILED, wanted.compiled_key, progress), self._shards(wanted, progress)
        )

    def _check_prepared(self, wanted: Wanted) -> None:
        prepared = self.job.config
        if prepared.compiled_key != wanted.compiled_key:
            raise ArtifactsOutdated("compiled model", prepared.compiled_key, wanted.compiled_key)
        if prepared.shards_key != wanted.shards_key:
            raise ArtifactsOutdated("set of shards", prepared.shards_key, wanted.shards_key)

    def _require(self, kind: ArtifactKind, key: str, progress: VerifyProgress | None) -> SealedSet:
        found = self._find(kind, key, progress)
        if found is None:
            raise ArtifactsMissing(self.job.artifacts, volume_is_new=self._store.is_new)
        return found

    def _find(self, kind: ArtifactKind, key: str, progress: VerifyProgress | None) -> SealedSet | None:
        """Finds a set. The bytes of shards that we read ourselves are verified while they are read, all others now."""
        read_by_us = kind == SHARDS and not self._is_native
        verification = Verification.QUICK if read_by_us else self.job.config.verification
        return self._store.find(kind, key, verification=verification, progress=progress)

    @cached_property
    def _store(self) -> Store:
        return Store(self.job.artifacts, read_only=True)

    def _shards(self, wanted: Wanted, progress: VerifyProgress | None) -> SealedSet | None:
        if wanted.shards_key is None:
            return None
        if self.job.config.seal is not Seal.BEHIND:
            return self._require(SHARDS, wanted.shards_key, progress)
        if self._is_native:
            raise ConfigurationInvalid(
                "Shards are sealed behind by the worker alone: leave out seal, or weights: Native."
            )
        return self._find(SHARDS, wanted.shards_key, progress)

    def ranks(self, sets: ArtifactSets) -> Ranks | None:
        """Reads or shards every rank's tensors in a phase of its own, or those of the ranks in `only`: others are empty
        then. None means that NxD Inference reads them itself.

        Raises ArtifactDamaged, SourceChanged and SourceUnreadable.
        """
        source, plan = self.source, self.source.plan
        if isinstance(plan, NativePlan):
            self.job.clock.served_from("Artifacts" if sets.shards else "Source")
            return None
        if sets.shards:
            return self._weights.read(plan, sets.shards)
        if sets.wanted.shards_key is None:
            return self._weights.shard(plan, source.copied, self._plan_of_source)
        sealing = SealingBehind(self.job, plan, sets.wanted, sets.wanted.shards_key, source.content)
        ranks = self._weights.shard_with(plan, sealing.digests)
        sealing.keep(ranks)
        self.background.submit(sealing.seal)
        return ranks

    def _plan_of_source(self) -> StreamedPlan:
        plan = self._plan(self.source.checkpoint)
        if not isinstance(plan, StreamedPlan):
            raise TypeError("a copy is made of a checkpoint that we shard ourselves")
        return plan

    def probe_scratch_later(self) -> None:
        self._weights.probe_scratch_later()
