"""How a start gets its rank tensors: it reads sealed shards, or it shards the checkpoint itself.

Both read the copy on the scratch volume if there is a good one, and make one while they read otherwise. If a copy is
unusable, the report gets a note, and the original volume is read instead.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from neuronmodel_api.config import Verification
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.report import DiskRates
from neuronmodel_worker.checkpoint import Checkpoint, TensorSource
from neuronmodel_worker.failures import ArtifactDamaged, SourceChanged, SourceUnreadable, WorkerFailure
from neuronmodel_worker.io import probe
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.report.clock import RunningPhase
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.scratch_cache import Tier, TierError
from neuronmodel_worker.scratch_cache.checkpoint_copies import (
    CopiedSource,
    SourceCopy,
    copied_source,
    lists_digests,
    verify_copy,
)
from neuronmodel_worker.scratch_cache.errors import TierDamaged, TierUnwritable
from neuronmodel_worker.scratch_cache.set_copies import SetCopy, copied_set
from neuronmodel_worker.scratch_cache.volume import SHARDS_COPY, SOURCE_COPY, CopyKind
from neuronmodel_worker.serve.background import Background, Throttle
from neuronmodel_worker.store import SealedSet
from neuronmodel_worker.stream import (
    WEIGHTS,
    ContentDigests,
    RankTensor,
    SourceObserver,
    TensorSink,
    Transferred,
    WrittenFile,
    rank_file_name,
    read_rank_files,
    run,
)

log = logging.getLogger(__name__)

Ranks = list[dict[str, RankTensor]]
Found = TypeVar("Found")
AnyCopy = TypeVar("AnyCopy", SetCopy, SourceCopy)


@dataclass
class WeightsLoader:
    """Loads rank tensors. `tier` is None if the scratch volume keeps no copies, `only` if all ranks are loaded; the
    tensors of others are empty."""

    job: Run
    background: Background
    tier: Tier | None = None
    only: Sequence[int] | None = None
    _scratch_rates: DiskRates | None = None

    @property
    def full(self) -> bool:
        """Whether every byte is verified."""
        return self.job.config.verification is Verification.FULL

    # Sealed shards.

    def read(self, plan: StreamedPlan, shards: SealedSet) -> Ranks:
        """Reads sealed shards. Raises ArtifactDamaged if the files on the artifacts volume itself differ from what was
        sealed."""
        nbytes = sum(file.nbytes for file in self._sealed(plan, shards).values()) if self.only else shards.nbytes
        with self.job.clock.phase(StartPhase.READ, nbytes) as phase:
            copied = self._with_tier(lambda tier: copied_set(tier, shards))
            if copied and (ranks := self._read_copied(plan, copied, phase)):
                return ranks
            with self._copying(self._with_tier(lambda tier: SetCopy.begin(tier, shards))) as copy:
                return self._read_set(plan, shards, phase, copy)

    def _read_copied(self, plan: StreamedPlan, copied: SealedSet, phase: RunningPhase) -> Ranks | None:
        try:
            return self._read_set(plan, copied, phase, None)
        except WorkerFailure as failure:
            what = failure.what if isinstance(failure, ArtifactDamaged) else str(failure)
            self._drop(SHARDS_COPY, copied.key, what)
            return None

    def _read_set(self, plan: StreamedPlan, shards: SealedSet, phase: RunningPhase, copy: SetCopy | None) -> Ranks:
        def progress(transferred: Transferred) -> None:
            phase.reach(transferred.bytes_read)

        began = time.monotonic()
        sealed, numbers = self._sealed(plan, shards), self._numbers(plan)
        read = read_rank_files(
            shards.directory / WEIGHTS, numbers, progress, sealed=sealed, full=self.full, observer=copy
        )
        seconds = time.monotonic() - began
        rates = DiskRates(read_bytes_per_second=_rate(sum(file.nbytes for file in sealed.values()), seconds))
        if self._is_in_tier(shards.directory):
            self._served_from_scratch(rates)
        else:
            self.job.clock.served_from("Artifacts")
            self._measured(rates, self.job.artifacts)
        found = dict(zip(numbers, read, strict=True))
        return [found.get(rank, {}) for rank in plan.ranks]

    def _numbers(self, plan: StreamedPlan) -> Sequence[int]:
        return plan.ranks if self.only is None else self.only

    def _sealed(self, plan: StreamedPlan, shards: SealedSet) -> dict[str, WrittenFile]:
        """Returns the entries of the rank files that are read."""
        names = {rank_file_name(rank) for rank in self._numbers(plan)}
        return {name: file for name, file in shards.files(under=WEIGHTS).items() if name in names}

    # The checkpoint.

    def copied_source(self, checkpoint: Checkpoint) -> CopiedSource | None:
        """Finds the copy of the checkpoint on the scratch volume."""
        return self._with_tier(lambda tier: copied_source(tier, checkpoint))

    def shard(
        self, plan: StreamedPlan, copied: CopiedSource | None, plan_of_source: Callable[[], StreamedPlan]
    ) -> Ranks:
        """Shards the checkpoint in memory. `plan` reads the copy if there is one; `plan_of_source` makes the plan that
        reads the source itself."""
        with self.job.clock.phase(StartPhase.SHARDED, plan.source_bytes) as phase:
            if copied:
                if ranks := self._shard_copied(plan, copied, phase):
                    self._verify_copy_later(plan.checkpoint)
                    return ranks
                plan = plan_of_source()
            digests = ContentDigests()
            with self._copying(self._with_tier(lambda tier: SourceCopy.begin(tier, plan.checkpoint, digests))) as copy:
                ranks = self._run(plan, phase, FanOut(digests, copy) if copy else None)
        self._verify_copy_later(plan.checkpoint)
        return ranks

    def shard_with(self, plan: StreamedPlan, observer: SourceObserver) -> Ranks:
        """Shards from the source itself, for shards that are sealed in the background; `observer` sees what is read."""
        with self.job.clock.phase(StartPhase.SHARDED, plan.source_bytes) as phase:
            return self._run(plan, phase, observer)

    def _shard_copied(self, plan: StreamedPlan, copied: CopiedSource, phase: RunningPhase) -> Ranks | None:
        digests = ContentDigests() if self.full else None
        try:
            ranks = self._run(plan, phase, digests)
            differing = copied.first_difference(digests.pieces()) if digests else None
        except (SourceChanged, SourceUnreadable) as failure:
            differing = str(failure)
        if differing is None:
            return ranks
        self._drop(SOURCE_COPY, plan.checkpoint.fingerprint, differing)
        return None

    def _run(self, plan: StreamedPlan, phase: RunningPhase, observer: SourceObserver | None) -> Ranks:
        def progress(transferred: Transferred) -> None:
            phase.reach(transferred.bytes_read)

        sink = TensorSink()
        streamed = run(plan, sink, progress, rank_indices=self.only, observer=observer)
        rate = _rate(streamed.bytes_read, streamed.busy_reading_seconds)
        rates = DiskRates(read_bytes_per_second=rate if plan.checkpoint.source.is_local else None)
        if self._is_in_tier(plan.checkpoint.path):
            self._served_from_scratch(rates)
        else:
            self.job.clock.served_from("Source")
            self._measured(rates, None)
        return sink.tensors

    # The tier.

    def _with_tier(self, ask: Callable[[Tier], Found | None]) -> Found | None:
        """Calls `ask` with the tier. Returns None if there is none, or if it fails, which is noted in the report."""
        if self.tier is None:
            return None
        try:
            return ask(self.tier)
        except TierError as error:
            self._note_tier_error(error)
        except OSError as error:
            self._note_tier_error(TierUnwritable(self.tier.root, error))
        return None

    def _drop(self, kind: CopyKind, key: str, what: str) -> None:
        def drop(tier: Tier) -> None:
            tier.drop(kind, key)
            raise TierDamaged(tier.path(kind, key), what)

        self._with_tier(drop)

    def _note_tier_error(self, error: TierError) -> None:
        log.warning(str(error))
        self.job.clock.note(error.reason, str(error))

    def _is_in_tier(self, directory: Path) -> bool:
        return self.tier is not None and directory.is_relative_to(self.tier.root)

    @contextmanager
    def _copying(self, copy: AnyCopy | None) -> Iterator[AnyCopy | None]:
        """Keeps a copy going while its original is read, and leaves its completion to the background."""
        try:
            yield copy
        except BaseException:
            if copy:
                copy.abandon()
            raise
        if copy:
            self.background.submit(lambda throttle: self._finish(copy, throttle), on_discard=copy.abandon)

    def _finish(self, copy: AnyCopy, throttle: Throttle) -> None:
        def finish(_: Tier) -> None:
            copy.finish(throttle.wait)

        self._with_tier(finish)

    def _verify_copy_later(self, checkpoint: Checkpoint) -> None:
        """Compares the copy with the digests that the source lists, when the model answers and the copy is there: bytes
        that are read by ranges are compared with nothing before."""
        if self.tier and lists_digests(checkpoint):
            self.background.submit(lambda throttle: self._verify_copy(checkpoint, throttle))

    def _verify_copy(self, checkpoint: Checkpoint, throttle: Throttle) -> None:
        self._with_tier(lambda tier: verify_copy(tier, checkpoint, throttle.wait))

    # Disk rates.

    def probe_scratch_later(self) -> None:
        """Measures the scratch volume in the background, at most once a day."""
        if self.tier:
            self.background.submit(lambda _: self._probe_scratch())

    def _probe_scratch(self) -> None:
        found = probe.kept_probe(self._scratch)
        if found and self._scratch_rates:
            self.job.clock.measured(found.merged_with(self._scratch_rates))

    @property
    def _scratch(self) -> Path:
        return Path(self.job.config.scratch_path)

    def _served_from_scratch(self, rates: DiskRates) -> None:
        self.job.clock.served_from("Scratch")
        self._scratch_rates = rates
        self._measured(rates, self._scratch)

    def _measured(self, rates: DiskRates, volume: Path | None) -> None:
        known = probe.known_probe(volume) if volume else None
        self.job.clock.measured(known.merged_with(rates) if known else rates)


class FanOut:
    """An observer that passes the bytes on to several observers."""

    def __init__(self, *observers: SourceObserver) -> None:
        self._observers = observers

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        for observer in self._observers:
            observer.observe(source, start, data)


def _rate(nbytes: int, seconds: float) -> int | None:
    return round(nbytes / seconds) if nbytes and seconds > 0 else None
