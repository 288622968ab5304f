"""Writes the shards while the model already answers; the rank tensors stay in memory until every rank's file is sealed.

That takes no additional memory with an engine that shares the tensors' memory, as the CPU engine does. With any other
engine it takes as much as the shards until the set is sealed or sealing has failed. Rank files that are sealed when the
worker ends stay, and the next start adopts them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTE, Sealing, SealingState
from neuronmodel_worker.artifact_keys import Wanted, rank_metadata
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.disk import writing_to
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.serve.background import ShuttingDown, Throttle
from neuronmodel_worker.store import SHARDS, Staging, Store
from neuronmodel_worker.store.source_digest_notes import note_digests
from neuronmodel_worker.store.source_records import SOURCE_FILE, Stats, check_recorded, file_stats, source_document
from neuronmodel_worker.stream import (
    WEIGHTS,
    ContentDigests,
    RankTensor,
    Transferred,
    rank_file_name,
    write_rank_files,
)

log = logging.getLogger(__name__)


@dataclass
class SealingBehind:
    """Seals the shards of one start. Create it before the source is read: `digests` is the observer that has to see the
    reading. `content` is the source's content."""

    job: Run
    plan: StreamedPlan
    wanted: Wanted
    key: str
    content: str
    digests: ContentDigests = field(default_factory=ContentDigests)
    tensors: Sequence[dict[str, RankTensor]] = ()

    def __post_init__(self) -> None:
        self._stats: Stats = file_stats(self.plan.checkpoint)
        self._sealing = Sealing(state=SealingState.PENDING, total=self.plan.output_bytes)

    def keep(self, tensors: Sequence[dict[str, RankTensor]]) -> None:
        """Keeps the tensors in memory until `seal` has ended."""
        self.tensors = tensors
        self._report()

    def seal(self, throttle: Throttle) -> None:
        """Writes and seals the set, as background work. A failure is reported, and the model goes on answering."""
        self._report(state=SealingState.WRITING, started_at=datetime.now(UTC))
        try:
            self._seal(throttle)
            self._report(state=SealingState.SEALED, done=self._sealing.total, ended_at=datetime.now(UTC))
        except ShuttingDown:
            self._report(
                message="The worker was told to stop. The next start takes over the rank files that are sealed."
            )
            raise
        except (WorkerFailure, OSError) as failure:
            self._report_failure(str(failure))
        except Exception as error:
            log.exception("sealing behind failed")
            self._report_failure(
                f"{type(error).__name__}: {error}. This is a mistake in the worker; its log has the traceback."
            )
        finally:
            self.tensors = ()

    def _seal(self, throttle: Throttle) -> None:
        def waiting(holder: str, seconds: float) -> None:
            self._report(state=SealingState.PENDING, message=f"The same shards are being written by {holder}.")
            throttle.wait()

        check_recorded(self.job.artifacts, self.plan.checkpoint, self.content, self._stats)
        with Store(self.job.artifacts).build(SHARDS, self.key, waiting) as work:
            if work.present is None:
                self._report(state=SealingState.WRITING, message="")
                self._write(work.staging, throttle)

    def _write(self, staging: Staging, throttle: Throttle) -> None:
        adopted = [i for i, rank in enumerate(self.plan.ranks) if rank_file_name(rank) in staging.adopted]
        before = len(adopted) * self.plan.rank_bytes

        def progress(transferred: Transferred) -> None:
            self._report(done=before + transferred.bytes_written)

        self._report(done=before)
        note_digests(staging, self.digests.pieces())
        write_rank_files(
            staging.directory / WEIGHTS,
            self.plan,
            self.tensors,
            metadata=rank_metadata(self.key),
            seal=staging.seal_rank,
            progress=progress,
            wait=throttle.wait,
            rank_indices=[i for i in range(len(self.plan.ranks)) if i not in adopted],
        )
        checkpoint = self.plan.checkpoint
        document = source_document(checkpoint, self.content, self._stats, self.digests.pieces())
        with writing_to(staging.directory):
            (staging.directory / SOURCE_FILE).write_bytes(document)
        staging.seal(self.wanted.shards_manifest(self.plan))

    def _report_failure(self, what: str) -> None:
        message = f"The shards could not be sealed, and the next start shards the checkpoint again: {what}"
        log.warning(message)
        self._report(state=SealingState.FAILED, message=message, ended_at=datetime.now(UTC))
        self.job.clock.note(Reason.SEALING_FAILED, message)

    def _report(self, **changes: object) -> None:
        if isinstance(message := changes.get("message"), str) and len(message) > MAX_NOTE:
            changes["message"] = message[: MAX_NOTE - 1] + "…"
        self._sealing = self._sealing.model_copy(update=changes)
        self.job.clock.sealing(self._sealing)
