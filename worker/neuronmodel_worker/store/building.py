"""Building a set: one writer at a time under a lease, in a staging of its own, published with one rename.

Correctness rests on the rename and on no lock: whoever publishes second finds the set and leaves it as it is.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker.failures import ArtifactsVolumeFull
from neuronmodel_worker.io.disk import FULL, sync, writing_to
from neuronmodel_worker.store.atomic_files import make_directory
from neuronmodel_worker.store.keys import ArtifactKind
from neuronmodel_worker.store.leases import Lease, Waiting, abandon, acquire
from neuronmodel_worker.store.locks import writer_is_dead
from neuronmodel_worker.store.lookup import SetLookup
from neuronmodel_worker.store.manifest import Manifest, SealedSet
from neuronmodel_worker.store.removal import TAKEN
from neuronmodel_worker.store.staging import (
    Staging,
    is_as_sealed,
    lock_path,
    remove_staging,
    sealed_files,
    stagings,
)
from neuronmodel_worker.store.volume_layout import Volume
from neuronmodel_worker.stream.rankfile import WEIGHTS


@dataclass(frozen=True)
class Build:
    """What `Store.build` gives: the set, where somebody has sealed it meanwhile, or a staging to write it into."""

    present: SealedSet | None = None
    lease: Lease | None = None
    _staging: Staging | None = None

    @property
    def staging(self) -> Staging:
        if self._staging is None:
            raise RuntimeError("the set is there, and nothing is to be written")
        return self._staging


class Builder:
    """Builds sets on a volume; `lookup` finds those that others have sealed."""

    def __init__(self, volume: Volume, lookup: SetLookup) -> None:
        self._volume = volume
        self._lookup = lookup

    @contextmanager
    def build(self, kind: ArtifactKind, key: str, waiting: Waiting | None = None) -> Iterator[Build]:
        if present := self._lookup.find(kind, key):
            yield Build(present)
            return
        lease = self._acquire(kind, key, waiting)
        if isinstance(lease, SealedSet):
            yield Build(lease)
            return
        try:
            with self._calling(lease.renew):
                if present := self._lookup.find(kind, key):
                    yield Build(present)
                    return
                with self.stage(kind, key) as staging:
                    self._adopt_into(staging)
                    yield Build(None, lease, staging)
        finally:
            lease.release()

    def _acquire(self, kind: ArtifactKind, key: str, waiting: Waiting | None) -> Lease | SealedSet:
        with writing_to(self._volume.root):
            make_directory(self._volume.leases)
            path = self._volume.leases / f"{kind}-{key}"
            try:
                return acquire(path, self._volume.timings, lambda: self._lookup.find(kind, key), waiting)
            except BaseException:
                abandon(path)
                raise

    def _adopt_into(self, staging: Staging) -> None:
        """Take over what other writers of the set have sealed."""
        for other in self._stagings(staging.kind, staging.key):
            if other != staging.directory:
                with writer_is_dead(lock_path(other), self._volume.timings) as dead:
                    staging.adopt(other, may_move=dead)
                    if dead:
                        remove_staging(other)

    def adoptable_bytes(self, kind: ArtifactKind, key: str) -> int:
        found = {}
        for directory in self._stagings(kind, key):
            for name, file in sealed_files(directory, kind, key).items():
                if is_as_sealed(directory / WEIGHTS / name, file):
                    found[name] = file.nbytes
        return sum(found.values())

    def _stagings(self, kind: ArtifactKind, key: str) -> list[Path]:
        return stagings(self._volume.staging, f"{kind}-{key}-")

    @contextmanager
    def stage(self, kind: ArtifactKind, key: str) -> Iterator[Staging]:
        with writing_to(self._volume.root):
            make_directory(self._volume.staging)
            staging = Staging(self._volume.staging, kind, key, self._publish)
        keep_sealed = True
        try:
            with self._calling(staging.renew):
                yield staging
        except BaseException as error:
            # The cause: a writer that was stopped because another one of this process found the volume full.
            keep_sealed = not (_is_full(error) or _is_full(error.__cause__))
            raise
        finally:
            staging.close(keep_sealed)

    def _publish(self, staging: Staging, manifest: Manifest) -> SealedSet:
        """Rename the staging to the name of its set. Returns the set that has the name now, perhaps another writer's;
        a damaged one in its place goes into quarantine."""
        final = self._volume.path(staging.kind, staging.key)
        make_directory(final.parent)
        while True:
            try:
                staging.directory.rename(final)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                if present := self._lookup.find(staging.kind, staging.key):
                    return present
            else:
                sync(final.parent)
                sync(self._volume.staging)
                return SealedSet(final, manifest)

    @contextmanager
    def _calling(self, renew: Callable[[], None]) -> Iterator[None]:
        """Calls `renew` every `timings.renew_seconds` until the end of the context."""
        seconds, is_over = self._volume.timings.renew_seconds, threading.Event()

        def heartbeat() -> None:
            while not is_over.wait(seconds):
                renew()

        thread = threading.Thread(target=heartbeat, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join(seconds)  # a volume that hangs must not keep this process


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, ArtifactsVolumeFull) or (isinstance(error, OSError) and error.errno in FULL)
