"""Shards that NxD Inference's own code writes. It verifies nothing, so every file is checked before it is sealed."""

import stat
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.checkpoint import read_header
from neuronmodel_worker.engines import ModelEngine
from neuronmodel_worker.failures import BadInput, WorkerFailure
from neuronmodel_worker.io.disk import WrittenFile, raising_volume_full
from neuronmodel_worker.io.readers import reading_threads
from neuronmodel_worker.plan.native import NativePlan
from neuronmodel_worker.prepare.concurrency import CallingThread, CancelToken, run_concurrently
from neuronmodel_worker.prepare.identify import Identity
from neuronmodel_worker.report.clock import RunningPhase
from neuronmodel_worker.store import Staging
from neuronmodel_worker.store.atomic_files import READ_BYTES, Digest, header_digest, nbytes_below
from neuronmodel_worker.store.manifest import names_below
from neuronmodel_worker.store.source_records import file_stats
from neuronmodel_worker.stream import WEIGHTS, PieceDigest, Transferred, rank_file_name, take_digests

POLL_SECONDS = 1.0
MAX_NAMED = 4


class ShardsUnexpected(WorkerFailure):
    """NxD Inference ended without an error, but did not write exactly the ranks that were asked for."""

    reason = Reason.SHARDS_UNEXPECTED

    def __init__(self, what: str) -> None:
        super().__init__(
            f"NxD Inference sharded the model without a complaint, and {what}. These shards are not used. Read the log "
            "of `prepare`, and check that the flags name the ranks that this model has."
        )


@dataclass(frozen=True)
class NativeSharding:
    """Sharding by NxD Inference into a staging folder that nobody else writes. The plan's checkpoint is in a folder,
    which may have been fetched from the source that `identity` is of."""

    plan: NativePlan
    engine: ModelEngine
    neuron_config: Mapping[str, object]
    identity: Identity
    staging: Staging

    def write(self, phase: RunningPhase) -> dict[str, list[PieceDigest]]:
        """Has the library write its rank files, and returns the digests of the source that they were made from.

        The library does not show what it reads, so the digests are taken by reading the source at the same time. Raises
        what the engine raises, and SourceChanged.
        """
        self.staging.drop_adopted()

        def digest(cancel_token: CancelToken) -> dict[str, list[PieceDigest]]:
            def progress(_: Transferred) -> None:
                cancel_token.check()

            return take_digests(self.plan.checkpoint, progress).pieces()

        with raising_volume_full(self.staging.directory), reporting_growth(self.staging.directory, phase):
            _, pieces = run_concurrently(self._shard, digest)
        self.identity.check_unchanged()
        file_stats(self.plan.checkpoint)  # raises for a folder's files, which may be other ones than those identified
        return pieces

    def _shard(self, calling_thread: CallingThread) -> None:
        with calling_thread.interruptible():
            self.engine.shard(self.plan, self.neuron_config, self.staging.directory, lambda done, total: None)

    def rank_files(self) -> list[Path]:
        """Returns the rank files in the order of ranks. Raises ShardsUnexpected if one is missing or incomplete, or if
        a file belongs to no rank."""
        expected = [f"{WEIGHTS}/{rank_file_name(rank)}" for rank in self.plan.ranks]
        found = names_below(self.staging.directory)
        if missing := [name for name in expected if name not in found]:
            raise ShardsUnexpected(f"{_named(missing)} {'is' if len(missing) == 1 else 'are'} not there")
        if extra := sorted(found - set(expected)):
            raise ShardsUnexpected(
                f"{_named(extra)} {'is' if len(extra) == 1 else 'are'} there beside the ranks' files"
            )
        paths = [self.staging.directory / name for name in expected]
        for path in paths:
            _check_whole(path)
        return paths


@contextmanager
def reporting_growth(directory: Path, phase: RunningPhase) -> Iterator[None]:
    """Reports how much the library has written so far, since it does not report that itself."""
    over = threading.Event()

    def report() -> None:
        while not over.wait(POLL_SECONDS):
            phase.reach(nbytes_below(directory))

    thread = threading.Thread(target=report, name="growth", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _check_whole(path: Path) -> None:
    """Checks the file's header against its length. Raises ShardsUnexpected."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ShardsUnexpected(f"{path.name} is no file")
        read_header(path)
    except BadInput as wrong:
        raise ShardsUnexpected(f"{path.name} is not whole ({wrong})") from wrong


def digest_files(paths: list[Path], phase: RunningPhase) -> list[WrittenFile]:
    """Reads every byte, several files at a time, and returns the files with their digests, as they are sealed."""
    over = threading.Event()
    phase.reach(0, sum(path.stat().st_size for path in paths))

    def take(path: Path) -> WrittenFile:
        digest, nbytes = Digest(), 0
        with path.open("rb", buffering=0) as file:
            while not over.is_set() and (data := file.read(READ_BYTES)):
                digest.update(data)
                nbytes += len(data)
                phase.advance(len(data))
        return WrittenFile(path.name, nbytes, digest.hexdigest(), header=header_digest(path))

    pool = ThreadPoolExecutor(reading_threads(), thread_name_prefix="digest")
    try:
        return list(pool.map(take, paths))
    finally:
        over.set()
        pool.shutdown(wait=True, cancel_futures=True)
