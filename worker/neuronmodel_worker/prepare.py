"""`neuronmodel prepare`: opens the source, computes the keys, builds what the artifacts volume lacks, says what it did.

Killed at any moment it leaves sealed sets and nothing else that counts; the next run finds what is there.
"""

import logging
import textwrap
from dataclasses import dataclass, field

from neuronmodel_api.report import MAX_MISSED, DiskRates, Result
from neuronmodel_worker.artifacts import Wanted, wanted_artifacts
from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.engines import Engine, open_engine
from neuronmodel_worker.lifecycle import Run
from neuronmodel_worker.plan import Plan, make_plan
from neuronmodel_worker.serve.admin import admin_server
from neuronmodel_worker.serve.metrics import Metrics
from neuronmodel_worker.store import COMPILED, SHARDS, Kind, SealedSet, Store
from neuronmodel_worker.stream import WEIGHTS, FileSink, StreamResult, Transferred, run

log = logging.getLogger(__name__)


def prepare(job: Run) -> None:
    with admin_server(job.clock, Metrics(job.clock), job.config.admin_port):
        with job.clock.phase("LibrariesImported"):
            job.use_scratch()
        with job.clock.phase("SourceOpened"):
            plan = open_source(job)
            engine = open_engine(job.config.engine)
            wanted = wanted_artifacts(job.config, plan, engine)
        job.clock.found(Preparation(job, plan, engine, wanted).result())


def open_source(job: Run) -> Plan:
    """Raises a BadInput for a checkpoint or flags that cannot be right."""
    plan = make_plan(open_checkpoint(job.source), job.config.neuron_config, job.config.model_type)
    for warning in plan.warnings:
        log.warning(warning)
    return plan


@dataclass
class Preparation:
    job: Run
    plan: Plan
    engine: Engine
    wanted: Wanted
    built: list[str] = field(default_factory=list)

    def result(self) -> Result:
        with self.job.clock.phase("ArtifactsChecked"):
            store = Store(self.job.artifacts)
            self._require_space(store)
            self._refer(store)
            compiled = store.find(COMPILED, self.wanted.compiled_key)
            shards = store.find(SHARDS, self.wanted.shards_key) if self.wanted.shards_key else None
            # Again: a set that was there may have been damaged, and its place is not free.
            if self.wanted.shards_key and not shards:
                store.require_space(self.plan.output_bytes)
        compiled = compiled or self._compile(store)
        if self.wanted.shards_key and not shards:
            shards = self._shard(store, self.wanted.shards_key)
        store.unrefer(self.job.owner, keep=self.wanted.keys)
        return self._result([each for each in (compiled, shards) if each])

    def _require_space(self, store: Store) -> None:
        """Before the first byte: on a full volume not even a reference can be written, which would tell no figure."""
        if self.wanted.shards_key and not store.path(SHARDS, self.wanted.shards_key).exists():
            store.require_space(self.plan.output_bytes)

    def _refer(self, store: Store) -> None:
        """Before looking: what is referred to is not collected by others meanwhile."""
        store.refer(COMPILED, self.wanted.compiled_key, self.job.owner)
        if self.wanted.shards_key:
            store.refer(SHARDS, self.wanted.shards_key, self.job.owner)

    def _compile(self, store: Store) -> SealedSet:
        self._note(store, COMPILED, "compiled the model")
        key = self.wanted.compiled_key
        with self.job.clock.phase("EngineImported"):
            self.engine.import_framework()
        with self.job.clock.phase("Compiled", unit="Steps") as phase, store.stage(COMPILED, key) as staging:
            self.engine.compile(self.plan, self.job.config.neuron_config, staging.directory, phase.reach)
            return staging.seal({"inputs": self.wanted.graph_inputs})

    def _shard(self, store: Store, key: str) -> SealedSet:
        self._note(store, SHARDS, "sharded the checkpoint")
        with store.stage(SHARDS, key) as staging:
            with self.job.clock.phase("Sharded", self.plan.output_bytes) as phase:

                def progress(transferred: Transferred) -> None:
                    phase.reach(transferred.bytes_written)

                streamed = run(self.plan, FileSink(staging.directory / WEIGHTS), progress)
                self.job.clock.measured(disk_rates(streamed))
            with self.job.clock.phase("Sealed"):
                staging.record(streamed.files, under=WEIGHTS)
                fingerprint = self.plan.checkpoint.fingerprint
                return staging.seal({"inputs": self.wanted.shards_inputs, "source_fingerprint": fingerprint})

    def _note(self, store: Store, kind: Kind, what: str) -> None:
        damaged = [each.reason for each in store.quarantined if each.kind == kind]
        self.built.append(f"{what}, for {damaged[0] if damaged else 'the volume had none of this key'}")

    def _result(self, sets: list[SealedSet]) -> Result:
        return Result(
            source_fingerprint=self.plan.checkpoint.fingerprint,
            model_type=self.plan.layout.family,
            compiled_key=self.wanted.compiled_key,
            shards_key=self.wanted.shards_key,
            cache="Miss" if self.built else "Hit",
            missed=_sentence(self.built),
            bytes=sum(each.nbytes for each in sets),
            source_bytes=self.plan.source_bytes,
        )


def _sentence(parts: list[str]) -> str | None:
    text = textwrap.shorten("; ".join(parts), MAX_MISSED - 1, placeholder=" …")
    return f"{text[0].upper()}{text[1:].removesuffix('.')}." if text else None


def disk_rates(streamed: StreamResult) -> DiskRates:
    """Over the time in which the disk was at work, not over the whole phase."""

    def rate(nbytes: int, seconds: float) -> int | None:
        return round(nbytes / seconds) if nbytes and seconds > 0 else None

    return DiskRates(
        read_bytes_per_second=rate(streamed.bytes_read, streamed.busy_reading_seconds),
        write_bytes_per_second=rate(streamed.bytes_written, streamed.busy_writing_seconds),
    )
