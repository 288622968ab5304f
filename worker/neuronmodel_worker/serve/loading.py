"""From the source and the sealed sets to a model that answers."""

import logging
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_api.config import Seal, Strategy, Verification
from neuronmodel_worker.artifacts import Wanted, wanted_artifacts
from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.engines import CompiledModel, Engine, LoadedModel, open_engine
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsOutdated, SourceChanged
from neuronmodel_worker.lifecycle import Run
from neuronmodel_worker.plan import Plan, make_plan
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.sealing import SealingBehind
from neuronmodel_worker.serve.text import Text, load_text
from neuronmodel_worker.serve.tier import Tier
from neuronmodel_worker.serve.weights import Ranks, Weights
from neuronmodel_worker.store import COMPILED, SHARDS, Kind, SealedSet, Store
from neuronmodel_worker.store.sources import recorded_content

log = logging.getLogger(__name__)


@dataclass
class Loading:
    """What it cannot do before the model answers it leaves to `background`."""

    job: Run
    background: Background
    tier: Tier | None = None

    def model(self) -> LoadedModel:
        self._weights = Weights(self.job, self.background, self.tier)
        with self.job.clock.phase("SourceOpened"):
            checkpoint = open_checkpoint(self.job.source)
            check_fingerprint(self.job, checkpoint)
            shards_itself = self.job.config.strategy is Strategy.SHARD_ON_LOAD
            self._copied = self._weights.copied_source(checkpoint) if shards_itself else None
            plan = self._plan(self._copied.checkpoint if self._copied else checkpoint)
            content = self._content(checkpoint, plan)
        with self.job.clock.phase("EngineImported"):
            engine = open_engine(self.job.config)
            engine.import_framework()
        with self.job.clock.phase("CompiledLoaded"):
            self._store = Store(self.job.artifacts, read_only=True)
            wanted = self._wanted(plan, engine, content)
            compiled = engine.open(self._there(COMPILED, wanted.compiled_key).directory)
            shards = self._shards(wanted)
        model = self._hand_over(compiled, self._ranks(checkpoint, plan, wanted, content, shards))
        self._weights.probe_scratch_later()
        return model

    def _plan(self, checkpoint: Checkpoint) -> Plan:
        """Raises a BadInput for a checkpoint or flags that cannot be right."""
        plan = make_plan(checkpoint, self.job.config.neuron_config, self.job.config.model_type)
        for warning in plan.warnings:
            log.warning(warning)
        return plan

    def _content(self, checkpoint: Checkpoint, plan: Plan) -> str:
        """Which one prepare found the source to have; without an operator, what the volume knows of that."""
        given = self.job.config.source_content
        recorded = given or recorded_content(self.job.artifacts, checkpoint, tuple(plan.reads))
        return recorded or checkpoint.fingerprint

    def _wanted(self, plan: Plan, engine: Engine, content: str) -> Wanted:
        """What prepare would return. Raises ArtifactsOutdated when that is not what it did return to the operator."""
        wanted = wanted_artifacts(self.job.config, plan, engine, content)
        if self.job.config.compiled_key:
            check_prepared(self.job, wanted)
        return wanted

    def _there(self, kind: Kind, key: str) -> SealedSet:
        found = self._find(kind, key)
        if found is None:
            raise ArtifactDamaged(self._store.path(kind, key), "it is not there")
        return found

    def _find(self, kind: Kind, key: str) -> SealedSet | None:
        """Of shards the bytes are compared while they are read, of what is small now."""
        verification = Verification.QUICK if kind == SHARDS else self.job.config.verification
        return self._store.find(kind, key, verification=verification)

    def _shards(self, wanted: Wanted) -> SealedSet | None:
        """None where this start shards the checkpoint. Raises ArtifactDamaged."""
        if wanted.shards_key is None:
            return None
        if self.job.config.seal is Seal.BEHIND:
            return self._find(SHARDS, wanted.shards_key)
        return self._there(SHARDS, wanted.shards_key)

    def _ranks(
        self, checkpoint: Checkpoint, plan: Plan, wanted: Wanted, content: str, shards: SealedSet | None
    ) -> Ranks:
        if shards:
            return self._weights.read(plan, shards)
        if wanted.shards_key is None:
            return self._weights.shard(plan, self._copied, lambda: self._plan(checkpoint))
        sealing = SealingBehind(self.job, plan, wanted, wanted.shards_key, content)
        ranks = self._weights.shard_with(plan, sealing.digests)
        sealing.hold(ranks)
        self.background.later(sealing.seal)
        return ranks

    def _hand_over(self, compiled: CompiledModel, ranks: Ranks) -> LoadedModel:
        with self.job.clock.phase("DeviceLoaded"):
            return compiled.load(ranks)

    def text(self) -> Text:
        with self.job.clock.phase("TokenizerLoaded"):
            return load_text(self.job.source, self.job.config.generation_config)


def open_tier(job: Run) -> Tier | None:
    """None where the scratch volume keeps no copies."""
    config = job.config
    return Tier(Path(config.scratch_path), config.scratch_limit_bytes) if config.scratch_tier else None


def check_fingerprint(job: Run, checkpoint: Checkpoint) -> None:
    expected, found = job.config.source_fingerprint, checkpoint.fingerprint
    if expected and expected != found:
        raise SourceChanged(job.source, f"its fingerprint is {found}, and {expected} was prepared")


def check_prepared(job: Run, wanted: Wanted) -> None:
    prepared = job.config
    if prepared.compiled_key != wanted.compiled_key:
        raise ArtifactsOutdated("compiled model", prepared.compiled_key, wanted.compiled_key)
    if prepared.shards_key != wanted.shards_key:
        raise ArtifactsOutdated("set of shards", prepared.shards_key, wanted.shards_key)
