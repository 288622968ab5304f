"""Copies of sealed shards on the scratch volume: the same files as on the artifacts volume, under the same manifest."""

from collections.abc import Callable

from neuronmodel_worker.failures import ArtifactDamaged, WorkerFailure
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.scratch_cache.copying import CopyWriter, LocalOriginal
from neuronmodel_worker.scratch_cache.errors import TierDamaged, TierStale, writing_copy
from neuronmodel_worker.scratch_cache.volume import SHARDS_COPY, PendingCopy, Tier
from neuronmodel_worker.store import SHARDS, SealedSet, Store
from neuronmodel_worker.store.manifest import MANIFEST
from neuronmodel_worker.stream import WEIGHTS


def copied_set(tier: Tier, sealed: SealedSet) -> SealedSet | None:
    """Returns the copy of a set on the artifacts volume, if there is one that passes the quick check.

    Raises TierError; an unusable copy is removed first.
    """
    directory = tier.use(SHARDS_COPY, sealed.key)
    if directory is None:
        return None
    try:
        copied = Store(tier.root, read_only=True).find(SHARDS, sealed.key)
    except WorkerFailure as failure:
        tier.drop(SHARDS_COPY, sealed.key)
        what = failure.what if isinstance(failure, ArtifactDamaged) else str(failure)
        raise TierDamaged(directory, what) from failure
    if copied and copied.manifest != sealed.manifest:
        tier.drop(SHARDS_COPY, sealed.key)
        raise TierStale(directory, "the artifacts volume has another set under its key by now")
    return copied


class SetCopy:
    """An observer of `read_rank_files` that copies a sealed set while it is read."""

    def __init__(self, writing: PendingCopy, sealed: SealedSet) -> None:
        """Raises TierError."""
        self._writing = writing
        names = [*sealed.manifest.files, MANIFEST]
        with writing_copy(writing.directory):
            originals = {name: LocalOriginal.at(sealed.directory / name) for name in names}
            self._copy = CopyWriter(writing.directory, originals)

    @classmethod
    def begin(cls, tier: Tier, sealed: SealedSet) -> "SetCopy | None":
        """Begins a copy, or returns None if another worker is making it. Raises TierError."""
        writing = tier.begin(SHARDS_COPY, sealed.key, sealed.nbytes)
        if writing is None:
            return None
        try:
            return cls(writing, sealed)
        except BaseException:
            writing.abandon()
            raise

    def observe(self, file_name: str, position: int, data: Array) -> None:
        """Takes bytes that were read from a rank file."""
        self._copy.observe(f"{WEIGHTS}/{file_name}", position, data)

    def finish(self, wait: Callable[[], None]) -> None:
        """Copies what was not seen, and publishes the copy. Raises TierError and what `wait` raises; the copy is
        removed then."""
        try:
            self._copy.complete(self._writing.directory, wait)
            self._writing.publish()
        except BaseException:
            self._writing.abandon()
            raise

    def abandon(self) -> None:
        self._copy.abort()
        self._writing.abandon()
