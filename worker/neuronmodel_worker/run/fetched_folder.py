"""A folder with the whole checkpoint, for what reads only directories where the source is on a network."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from neuronmodel_api import exits
from neuronmodel_api.config import Strategy, Verification, Weights
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.plan.native import MEDUSA_HEADS
from neuronmodel_worker.run.context import Run, ScratchUnwritable
from neuronmodel_worker.scratch_cache import Tier, TierError
from neuronmodel_worker.scratch_cache.errors import TierFull, TierTooSmall, TierUnwritable
from neuronmodel_worker.scratch_cache.volume import FOLDER_COPY
from neuronmodel_worker.scratch_cache.whole_folders import WholeFolder

log = logging.getLogger(__name__)


class ScratchVolumeFull(WorkerFailure):
    """NxD Inference's own code needs the files of a checkpoint, and they have no room."""

    reason = Reason.VOLUME_FULL
    exit_code = exits.NO_SPACE


def start_needs_folder(job: Run) -> bool:
    """Whether a start lets NxD Inference read the checkpoint itself, and the checkpoint is on a network."""
    config = job.config
    shards = config.weights is Weights.NATIVE and config.strategy is Strategy.SHARD_ON_LOAD
    return shards and not job.weights.is_local


@dataclass
class FetchedFolder:
    """The folder of a checkpoint on a run's scratch volume. It stays in use, so that no other worker removes it, until
    `finished` or the end of the process."""

    job: Run
    checkpoint: Checkpoint

    @cached_property
    def _folder(self) -> WholeFolder:
        config = self.job.config
        return WholeFolder(
            Tier(Path(config.scratch_path), config.scratch_limit_bytes), self.checkpoint, (MEDUSA_HEADS,)
        )

    def require_room(self) -> None:
        """Raises ScratchVolumeFull, with the bytes that are needed and those that may be written."""
        with self._failures():
            self._folder.require_room()

    def fetch(self) -> Path:
        """Returns the folder, in a phase of its own. Raises ScratchVolumeFull, ScratchUnwritable, SourceChanged, and
        what reading the source raises."""
        waits: list[None] = []

        def waiting() -> None:
            if not waits:
                log.info("another worker fetches %s to the scratch volume: waiting for it", self.checkpoint.path)
                waits.append(None)

        full = self.job.config.verification is Verification.FULL
        with self._failures(), self.job.clock.phase(StartPhase.SOURCE_FETCHED, self._folder.nbytes) as phase:
            if found := self._folder.found(full=full):
                phase.found(self._folder.nbytes)
                return found
            return self._folder.fetch(phase.reach, waiting, full=full)

    def finished(self) -> None:
        """Removes the folder, unless another worker uses it. A failure is only logged."""
        try:
            self._folder.tier.finished_with(FOLDER_COPY, self._folder.key)
        except TierError as error:
            log.warning("%s", error)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        source, scratch = self.checkpoint.path, self.job.config.scratch_path
        try:
            yield
        except TierTooSmall as full:
            raise ScratchVolumeFull(
                f"NxD Inference's own code reads a folder, so the files of {source} are fetched to the scratch volume "
                f"first: {full.needed_bytes:,} bytes are needed there, and {full.writable_bytes:,} may be written, as "
                "a tenth is left free. Enlarge the volume or its sizeLimit, or name another one in spec.scratch."
            ) from full
        except TierFull as full:
            raise ScratchVolumeFull(
                f"The scratch volume became full while the files of {source} were fetched to {scratch}. Enlarge it, or "
                "name another one in spec.scratch."
            ) from full
        except TierUnwritable as error:
            raise ScratchUnwritable(
                f"The files of {source} cannot be fetched to the scratch volume: {error.what}. Check it, and that the "
                "pod's user and group may write to it."
            ) from error
        except TierError as error:
            raise WorkerFailure(str(error)) from error
