"""What `prepare` does with an open source: it identifies the source, chooses a strategy, looks up the sets, builds
those that are missing, and collects old ones."""

import json
import logging
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Thread

from neuronmodel_api.config import Seal, Strategy, Verification
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.report import (
    MAX_MISSED,
    MAX_NOTE,
    MAX_NOTES,
    Cache,
    Choice,
    DiskRates,
    MissCause,
    ResolvedSource,
    Result,
    Sizing,
)
from neuronmodel_worker.artifact_keys import Wanted, plan_for, rank_metadata, wanted_artifacts
from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.engines import ModelEngine
from neuronmodel_worker.engines.installed_server import required_server
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsVolumeFull, WorkerFailure
from neuronmodel_worker.io.disk import WrittenFile, raising_volume_full, writing_to
from neuronmodel_worker.io.probe import VolumeProbe, kept_probe
from neuronmodel_worker.io.readers import readers_of_each, reading_threads
from neuronmodel_worker.plan.native import NativePlan
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.prepare.auto import choose
from neuronmodel_worker.prepare.auto_figures import figures_of
from neuronmodel_worker.prepare.concurrency import CallingThread, CancelToken, run_concurrently
from neuronmodel_worker.prepare.identify import Identity, identify
from neuronmodel_worker.prepare.native_shards import NativeSharding, digest_files
from neuronmodel_worker.prepare.required_space import ESTIMATED, needed_bytes, require, with_estimate_note
from neuronmodel_worker.report.clock import RunningPhase
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.run.fetched_folder import FetchedFolder
from neuronmodel_worker.sizing import check, size
from neuronmodel_worker.store import (
    COMPILED,
    SHARDS,
    ArtifactKind,
    Build,
    Policy,
    Quarantined,
    SealedSet,
    Staging,
    Store,
)
from neuronmodel_worker.store.key_differences import SOURCE_DIFFERS, SOURCE_NAMED_OTHERWISE
from neuronmodel_worker.store.source_digest_notes import note_digests, noted_digests
from neuronmodel_worker.store.source_records import SOURCE_FILE
from neuronmodel_worker.stream import (
    WEIGHTS,
    ContentDigests,
    FileSink,
    PieceDigest,
    StreamResult,
    Transferred,
    check_rank_file,
    rank_file_name,
    run,
    take_missing_digests,
)

log = logging.getLogger(__name__)


def open_source(job: Run) -> StreamedPlan | NativePlan:
    """Opens the checkpoint and makes the plan. Raises a BadInput for a checkpoint or flags that cannot be right."""
    plan = plan_for(job.config, open_checkpoint(job.weights))
    for warning in plan.warnings:
        log.warning(warning)
    if isinstance(plan, NativePlan):
        log.info("%d bytes of shards are expected of %d ranks. %s", plan.output_bytes, len(plan.ranks), ESTIMATED)
    return plan


@dataclass
class Preparation:
    """One preparation; `result` does all the work."""

    job: Run
    plan: StreamedPlan | NativePlan
    engine: ModelEngine
    while_building: Callable[[], None] = lambda: None
    """Runs in a thread while something is built, so that nobody has to wait for it."""
    built: dict[ArtifactKind, str] = field(default_factory=dict)
    """What was built and why, by the kind of set."""
    causes: dict[ArtifactKind, MissCause] = field(default_factory=dict)
    """The same whys in one word each."""
    damaged: dict[ArtifactKind, Quarantined] = field(default_factory=dict)
    """Of these whys, the sets that were set aside."""
    found: dict[ArtifactKind, SealedSet] = field(default_factory=dict)
    identity: Identity = field(init=False)
    probe: VolumeProbe | None = field(init=False)
    store: Store = field(init=False)
    wanted: Wanted = field(init=False)

    def result(self) -> Result:
        """Prepares everything. Raises what prevents that; ArtifactsVolumeFull states how much is needed and how much is
        free."""
        self.identity = self._identify()
        self.wanted = wanted_artifacts(self.job.config, self.plan, self.engine, self.identity.content)
        self.probe = self._probe()
        try:
            return self._prepared()
        except ArtifactsVolumeFull as full:
            if full.needed_bytes is not None:
                raise with_estimate_note(self.plan, full) from full
            needed = self._needed_bytes(Store(self.job.artifacts, read_only=True), self._missing())
            raise with_estimate_note(
                self.plan, ArtifactsVolumeFull(self.job.artifacts, needed, full.free_bytes)
            ) from full

    def _prepared(self) -> Result:
        with self.job.clock.phase(StartPhase.ARTIFACTS_CHECKED) as phase:
            self.store = Store(self.job.artifacts)
            self._make_ready(phase.reach)
            choice = self._choose() if self.job.config.strategy is Strategy.AUTO else None
            sizing = self._sized(choice.strategy if choice else self.job.config.strategy)
            self._require_space(self._missing())
            self._require_scratch()
        if self._missing():
            alongside = Thread(target=self.while_building, name="while-building", daemon=True)
            alongside.start()
            self._build()
            alongside.join()
        self.store.unrefer(self.job.owner, keep=self.wanted.keys)
        self._collect()
        return self._result(choice, sizing)

    def _identify(self) -> Identity:
        with self.job.clock.phase(StartPhase.SOURCE_IDENTIFIED) as phase:
            identity = identify(self.job.artifacts, self.plan)
            if identity.content:
                return identity
            phase.reach(0, identity.nbytes_to_compare)
            return identity.resolved(lambda so_far: phase.reach(so_far.bytes_read))

    def _probe(self) -> VolumeProbe | None:
        with self.job.clock.phase(StartPhase.VOLUME_PROBED):
            if (probe := kept_probe(self.job.artifacts)) is not None:
                self.job.clock.measured(probe.merged_with(None))
            return probe

    def _make_ready(self, reach: Callable[[int], None]) -> None:
        """Checks the space, refers to the sets, and finds those that exist, before the first byte is written.

        The space comes first because a full volume cannot even take a reference, and that failure would state no
        figures. What is referred to is not collected by other workers.
        """
        store, absent = self.store, [kind for kind, key in self._keys() if not self.store.path(kind, key).exists()]
        self._require_space(
            kind for kind in absent if kind == COMPILED or self.job.config.strategy is not Strategy.AUTO
        )
        self.identity.note()
        for kind, key in self._keys():
            store.refer(kind, key, self.job.owner)
        for kind, key in self._keys():
            if found := store.find(kind, key, verification=self.job.config.verification, progress=reach):
                self.found[kind] = found

    def _keys(self) -> Iterator[tuple[ArtifactKind, str]]:
        yield COMPILED, self.wanted.compiled_key
        if self.wanted.shards_key:
            yield SHARDS, self.wanted.shards_key

    def _missing(self) -> list[ArtifactKind]:
        return [kind for kind, _ in self._keys() if kind not in self.found]

    def _require_space(self, kinds: Iterable[ArtifactKind]) -> None:
        """Makes space for the missing kinds of sets. Raises ArtifactsVolumeFull."""
        if nbytes := self._needed_bytes(self.store, kinds):
            require(self.store, nbytes, self.job.owner, self._keep)

    def _require_scratch(self) -> None:
        """Raises ScratchVolumeFull where the whole files of a source on a network will be needed and have no room."""
        if self._is_native_without_folder and SHARDS in self._missing():
            self._fetched_folder.require_room()

    @property
    def _is_native_without_folder(self) -> bool:
        return isinstance(self.plan, NativePlan) and not self.plan.checkpoint.source.is_local

    @cached_property
    def _fetched_folder(self) -> FetchedFolder:
        return FetchedFolder(self.job, self.plan.checkpoint)

    def _needed_bytes(self, store: Store, kinds: Iterable[ArtifactKind]) -> int:
        missing = set(kinds)
        return needed_bytes(
            store,
            self.plan,
            self.job.config.engine,
            compiled=self.wanted.compiled_key if COMPILED in missing else None,
            shards=self.wanted.shards_key if SHARDS in missing else None,
        )

    @property
    def _keep(self) -> frozenset[str]:
        """Keys of sets that must not be collected."""
        return frozenset((*self.wanted.keys, *self.job.config.keys_in_use))

    def _choose(self) -> Choice:
        """Chooses a strategy. If it is ShardOnLoad, shards are not wanted any more."""
        key = self.wanted.shards_key or ""
        figures = figures_of(self.job.config, self.plan, key, self.probe, sealed=SHARDS in self.found)
        choice = choose(figures)
        if choice.strategy is Strategy.SHARD_ON_COMPILE and not figures.sealed:
            try:
                self._require_space(self._missing())
            except ArtifactsVolumeFull:
                choice = choose(replace(figures, fits=False))
        if choice.strategy is Strategy.SHARD_ON_LOAD:
            self.wanted = self.wanted.without_shards()
            self.found.pop(SHARDS, None)
        log.info("%s: %s", choice.reason, choice.message)
        return choice

    def _sized(self, strategy: Strategy) -> Sizing:
        """Returns the sizing. Raises DoesNotFit: with Auto it is known only now which strategy has to fit."""
        sizing = size(self.plan, self.job.config, strategy)
        check(sizing, self.job.config, len(self.plan.ranks))
        return sizing

    def _build(self) -> None:
        compiles = COMPILED not in self.found
        shards = self.wanted.shards_key and SHARDS not in self.found and self.job.config.seal is not Seal.BEHIND
        reasons = {kind: self._why(kind) for kind in self._missing()}
        plan = self.plan
        if compiles and shards and isinstance(plan, StreamedPlan):
            self.found[COMPILED], self.found[SHARDS] = run_concurrently(
                lambda calling_thread: self._compile(reasons[COMPILED], calling_thread),
                lambda cancel_token: self._shard(plan, reasons[SHARDS], cancel_token),
            )
            return
        if compiles:
            self.found[COMPILED] = self._compile(reasons[COMPILED], CallingThread())
        if shards and isinstance(plan, StreamedPlan):
            self.found[SHARDS] = self._shard(plan, reasons[SHARDS], CancelToken())
        elif shards and isinstance(plan, NativePlan):
            # Not during compilation: NxD Inference holds the whole checkpoint in memory while it shards, and the
            # compiler takes much memory too.
            self.found[SHARDS] = self._shard_natively(plan, reasons[SHARDS])

    def _compile(self, why: str, calling_thread: CallingThread) -> SealedSet:
        with self._building(COMPILED, self.wanted.compiled_key, calling_thread) as work:
            if work.present:
                return work.present
            self.built[COMPILED] = f"compiled the model, for {why}"
            with self.job.clock.phase(StartPhase.ENGINE_IMPORTED), calling_thread.interruptible():
                self.engine.import_framework()
            with self.job.clock.phase(StartPhase.COMPILED, unit="Steps") as phase:
                with raising_volume_full(self.store.root), calling_thread.interruptible():
                    self.engine.compile(self.plan, self.job.config.neuron_config, work.staging.directory, phase.reach)
                return work.staging.seal({"inputs": self.wanted.graph_inputs})

    def _shard(self, plan: StreamedPlan, why: str, cancel_token: CancelToken) -> SealedSet:
        key = self.wanted.shards_key or ""
        with self._building(SHARDS, key, cancel_token) as work:
            if work.present:
                return work.present
            staging, digests = work.staging, ContentDigests(noted_digests(work.staging))
            indices = [index for index, rank in enumerate(plan.ranks) if not self._is_adopted(staging, rank)]
            self.built[SHARDS] = f"sharded the checkpoint, for {why}{_adopted(len(plan.ranks), len(indices))}"
            with self.job.clock.phase(StartPhase.SHARDED, plan.output_bytes) as phase:
                phase.found(plan.rank_bytes * (len(plan.ranks) - len(indices)))

                def progress(so_far: Transferred) -> None:
                    cancel_token.check()
                    phase.reach(phase.before + so_far.bytes_written)

                def seal(rank: int, written: WrittenFile) -> None:
                    note_digests(staging, digests.taken_since())
                    staging.seal_rank(rank, written)

                sink = FileSink(staging.directory / WEIGHTS, seal=seal, metadata=rank_metadata(key))
                is_whole = len(indices) == len(plan.ranks)
                streamed = run(plan, sink, progress, rank_indices=indices, observer=digests, observes_unneeded=is_whole)
                # Of what only ranks that are there were made from, whoever made them has noted the digests. What is
                # missing all the same is not fetched over a network again: a set without it is found by what its
                # source is recorded to be, not by a comparison of contents.
                if not is_whole and plan.checkpoint.source.is_local:
                    sources = [read.source for read in plan.reads.values()]
                    take_missing_digests(plan.checkpoint, sources, digests, lambda _: cancel_token.check())
                self._measured(streamed)
            with self.job.clock.phase(StartPhase.SEALED), writing_to(self.store.root):
                cancel_token.check()
                return self._seal_shards(staging, digests.pieces())

    def _shard_natively(self, plan: NativePlan, why: str) -> SealedSet:
        """Has NxD Inference shard the checkpoint. The size of its files is an estimate until they are complete."""
        with self._building(SHARDS, self.wanted.shards_key or "", CallingThread()) as work:
            if work.present:
                return work.present
            self.built[SHARDS] = f"had NxD Inference shard the checkpoint, for {why}"
            if self._is_native_without_folder:
                plan = replace(plan, checkpoint=open_checkpoint(self._fetched_folder.fetch()))
            sharding = NativeSharding(plan, self.engine, self.job.config.neuron_config, self.identity, work.staging)
            with self.job.clock.phase(StartPhase.SHARDED, plan.output_bytes) as phase:
                pieces = sharding.write(phase)
                files = sharding.rank_files()
                nbytes = sum(path.stat().st_size for path in files)
                phase.reach(nbytes, nbytes)
            with self.job.clock.phase(StartPhase.SEALED) as phase, writing_to(self.store.root):
                work.staging.record(digest_files(files, phase), under=WEIGHTS)
                sealed = self._seal_shards(work.staging, pieces)
            if self._is_native_without_folder:
                self._fetched_folder.finished()
            return sealed

    def _seal_shards(self, staging: Staging, pieces: dict[str, list[PieceDigest]]) -> SealedSet:
        (staging.directory / SOURCE_FILE).write_bytes(self.identity.document(pieces))
        return staging.seal(self.wanted.shards_manifest(self.plan))

    def _is_adopted(self, staging: Staging, rank: int) -> bool:
        """Whether the rank's file exists already. With full verification every byte of it is read."""
        file = staging.adopted.get(rank_file_name(rank))
        if file is None or self.job.config.verification is not Verification.FULL:
            return file is not None
        try:
            check_rank_file(
                staging.directory / WEIGHTS / file.name, file, full=True, readers=readers_of_each(reading_threads(), 1)
            )
        except ArtifactDamaged as damage:
            log.warning("%s", damage)
            return False
        return True

    def _measured(self, streamed: StreamResult) -> None:
        rates = disk_rates(streamed, is_local=self.plan.checkpoint.source.is_local)
        self.job.clock.measured(self.probe.merged_with(rates) if self.probe else rates)

    @contextmanager
    def _building(self, kind: ArtifactKind, key: str, other: CancelToken | CallingThread) -> Iterator[Build]:
        """Builds a set while no other worker does. Waiting for another worker is a phase of its own."""
        with ExitStack() as waited:
            phases: list[RunningPhase] = []

            def waiting(who: str, seconds: float) -> None:
                if not phases:
                    log.info("%s builds %s %s: waiting for it", who, kind, key)
                    phases.append(
                        waited.enter_context(self.job.clock.phase(StartPhase.OTHER_WRITER_AWAITED, unit="Steps"))
                    )
                other.check()

            with self.store.build(kind, key, waiting) as work:
                waited.close()
                yield work

    def _why(self, kind: ArtifactKind) -> str:
        """Returns why a set has to be built: in which parts its key differs from those on the volume."""
        for damaged in self.store.quarantined:
            if damaged.kind == kind:
                self.damaged[kind] = damaged
                self.causes[kind] = MissCause.DAMAGED
                return damaged.reason.removesuffix(".")
        inputs = self.wanted.graph_inputs if kind == COMPILED else self.wanted.shards_inputs
        differences = self.store.explain(kind, json.loads(json.dumps(inputs)), self.job.owner)
        if self.identity.differs:
            changed = f"source: {self.identity.differs}"
            differences = [changed if each == SOURCE_DIFFERS else each for each in differences]
        elif differences == [SOURCE_DIFFERS] and self._may_be_named_otherwise:
            differences = [SOURCE_NAMED_OTHERWISE]
        absent = "the volume is new" if self.store.is_new else "the volume had none of this key"
        self.causes[kind] = _cause(differences, is_new=self.store.is_new)
        return ", ".join(differences) or absent

    @property
    def _may_be_named_otherwise(self) -> bool:
        return self.identity.records.may_be_named_otherwise(self.plan.checkpoint, self.identity.stats)

    def _collect(self) -> None:
        """Collects sets that nobody has needed for long. Everything is prepared by now, so a failure is only logged."""
        try:
            gone = self.store.collect(Policy(keep=self._keep))
        except WorkerFailure as failure:
            log.warning("what nobody needs was not collected: %s", failure)
            return
        for item in gone.items:
            log.info("collected %s %s: %d bytes", item.what, item.directory.name, item.nbytes)

    def _result(self, choice: Choice | None, sizing: Sizing) -> Result:
        chosen = choice.strategy if choice else self.job.config.strategy
        done = "; ".join(self.built[kind] for kind in (COMPILED, SHARDS) if kind in self.built)
        quarantined, in_missed = self._quarantined(is_whole=len(done) < MAX_MISSED)
        return Result(
            source_fingerprint=self.plan.checkpoint.fingerprint,
            source_content=self.identity.content,
            model_type=self.plan.family,
            compiled_key=self.wanted.compiled_key,
            shards_key=self.wanted.shards_key,
            strategy=chosen,
            choice=choice,
            cache="Miss" if self.built else "Hit",
            compiled_cache=self._cache(COMPILED),
            shards_cache=self._cache(SHARDS) if SHARDS in self.found else None,
            missed=_sentence(done),
            missed_because=next((self.causes[kind] for kind in (SHARDS, COMPILED) if kind in self.built), None),
            bytes=sum(each.nbytes for each in self.found.values()),
            source_bytes=self.plan.source_bytes,
            source=_resolved(self.plan.checkpoint),
            sizing=sizing,
            server=required_server(self.job.config),
            quarantined=quarantined,
            quarantined_in_missed=in_missed,
        )

    def _quarantined(self, *, is_whole: bool) -> tuple[tuple[str, ...], int | None]:
        """Why sets were set aside, and how many of them, the first ones, `missed` has if it is whole."""
        given = [damaged for kind, damaged in self.damaged.items() if kind in self.built] if is_whole else []
        others = [each for each in self.store.quarantined if each not in given]
        sentences = tuple(_short(each.reason, MAX_NOTE) for each in (*given, *others)[:MAX_NOTES])
        return sentences, len(given) if sentences else None

    def _cache(self, kind: ArtifactKind) -> Cache:
        return "Miss" if kind in self.built else "Hit"


def _cause(differences: Sequence[str], *, is_new: bool) -> MissCause:
    if differences:
        is_of_source = any(each.startswith("source") for each in differences)
        return MissCause.SOURCE_CHANGED if is_of_source else MissCause.INPUTS_CHANGED
    return MissCause.NEW_VOLUME if is_new else MissCause.NOT_THERE


def _resolved(checkpoint: Checkpoint) -> ResolvedSource | None:
    resolution = checkpoint.source.resolution
    if resolution is None:
        return None
    nbytes = sum(file.nbytes for file in checkpoint.files)
    return ResolvedSource(
        revision=resolution.revision, files=len(checkpoint.files), bytes=nbytes, resolved_at=resolution.at
    )


def _adopted(ranks: int, made: int) -> str:
    return f"; {ranks - made} of {ranks} rank files were there already" if made < ranks else ""


def _sentence(text: str) -> str | None:
    text = _short(text, MAX_MISSED - 1)
    return f"{text[0].upper()}{text[1:].removesuffix('.')}." if text else None


def _short(text: str, characters: int) -> str:
    return textwrap.shorten(text, characters, placeholder=" …")


def disk_rates(streamed: StreamResult, *, is_local: bool = True) -> DiskRates:
    """Returns the rates over the time in which the disk was busy, not over the whole phase. The rate of a source that
    is not local is no disk's."""

    def rate(nbytes: int, seconds: float) -> int | None:
        return round(nbytes / seconds) if nbytes and seconds > 0 else None

    return DiskRates(
        read_bytes_per_second=rate(streamed.bytes_read, streamed.busy_reading_seconds) if is_local else None,
        write_bytes_per_second=rate(streamed.bytes_written, streamed.busy_writing_seconds),
    )
