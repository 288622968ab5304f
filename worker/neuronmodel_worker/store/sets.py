"""The artifact store of one volume: sealed sets under their keys, the staging of new ones, the damaged ones apart.

    compiled/<key>/…            shards/<key>/weights/…          sets, each with a manifest.json
    staging/<kind>-<key>-…/     what is being written
    quarantine/<kind>-<key>-…/  what failed a check, with the reason beside it
    refs/<key>/<owner>          who needs a set

Correctness rests on one rename, on no lock: whoever publishes second finds the set there and lets it be.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from neuronmodel_worker import disk
from neuronmodel_worker.disk import sync, writing_to
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.store.keys import KINDS, Kind
from neuronmodel_worker.store.manifest import Manifest, SealedSet, read_checked
from neuronmodel_worker.store.staging import Staging, remove_leftovers

TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


@dataclass(frozen=True, slots=True)
class Quarantined:
    kind: Kind
    key: str
    reason: str
    directory: Path


class Store:
    """`read_only` is for those who serve: nothing is changed, and damage raises ArtifactDamaged."""

    def __init__(self, root: Path, read_only: bool = False) -> None:
        self.root = root
        self.read_only = read_only
        self.quarantined: list[Quarantined] = []
        if not read_only:
            with writing_to(root):
                root.mkdir(parents=True, exist_ok=True)
                remove_leftovers(root / "staging")

    def path(self, kind: Kind, key: str) -> Path:
        return self.root / kind / key

    def find(self, kind: Kind, key: str) -> SealedSet | None:
        """The sealed set of that key. A damaged one is put into quarantine and counts as absent."""
        directory = self.path(kind, key)
        if not directory.exists():
            return None
        try:
            return SealedSet(directory, read_checked(directory, kind, key))
        except ArtifactDamaged as damage:
            if self.read_only:
                raise
            self.quarantine(kind, key, str(damage))
            return None

    def quarantine(self, kind: Kind, key: str, reason: str) -> None:
        """Take a set away from its key, and keep it with the reason for whoever wants to know."""
        apart = self.root / "quarantine" / f"{kind}-{key}-{os.urandom(4).hex()}"
        with writing_to(self.root):
            apart.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another writer was quicker
                self.path(kind, key).rename(apart)
                apart.with_name(f"{apart.name}.reason.txt").write_text(f"{reason}\n")
                self.quarantined.append(Quarantined(kind, key, reason, apart))

    def require_space(self, nbytes: int) -> None:
        """Raises ArtifactsVolumeFull when the volume has not that much room."""
        disk.require_space(self.root, nbytes)

    @contextmanager
    def stage(self, kind: Kind, key: str) -> Iterator[Staging]:
        """A directory to write a set into. What is not sealed in the context is gone after it."""
        with writing_to(self.root):
            staging = Staging(self.root / "staging", kind, key, self._publish)
        try:
            yield staging
        finally:
            staging.close()

    def _publish(self, staging: Staging, manifest: Manifest) -> SealedSet:
        final = self.path(staging.kind, staging.key)
        final.parent.mkdir(exist_ok=True)
        while True:
            try:
                staging.directory.rename(final)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
                if present := self.find(staging.kind, staging.key):
                    return present
            else:
                sync(final.parent)
                return SealedSet(final, manifest)

    # References: files, so that any tool on the volume can read and remove them.

    def refer(self, kind: Kind, key: str, owner: str) -> None:
        """Note that `owner` (`namespace.name.uid`) needs the set. References that a deleted model of the same name
        left are taken over."""
        references = self._references(key)
        with writing_to(self.root):
            references.mkdir(parents=True, exist_ok=True)
            (references / owner).write_text(kind)
            sync(references)
            for predecessor in self._predecessors(owner):
                predecessor.unlink(missing_ok=True)

    def _predecessors(self, owner: str) -> list[Path]:
        name = owner.rpartition(".")[0]
        every = (self.root / "refs").glob("*/*")
        return [path for path in every if path.name.rpartition(".")[0] == name and path.name != owner]

    def unrefer(self, owner: str, keep: Iterable[str] = ()) -> list[str]:
        """Remove the owner's references, but those to the keys in `keep`; `owner` may hold `*`, for any UID.

        Returns the keys that are no longer referred to by it.
        """
        spared = set(keep)
        dropped = [path for path in (self.root / "refs").glob(f"*/{owner}") if path.parent.name not in spared]
        with writing_to(self.root):
            for path in dropped:
                path.unlink(missing_ok=True)
        return [path.parent.name for path in dropped]

    def owners(self, key: str) -> list[str]:
        references = self._references(key)
        return sorted(path.name for path in references.iterdir()) if references.is_dir() else []

    def remove_unreferenced(self, keys: Iterable[str]) -> list[str]:
        """Remove the sets of those keys that nobody refers to. Returns the keys whose sets were removed."""
        with writing_to(self.root):
            return [key for key in keys if not self.owners(key) and self._remove(key)]

    def _remove(self, key: str) -> bool:
        removed = False
        for kind in KINDS:
            with suppress(FileNotFoundError), self.stage(kind, key) as trash:
                gone = trash.directory / "removed"
                self.path(kind, key).rename(gone)
                if self.owners(key):  # somebody came to need it meanwhile
                    gone.rename(self.path(kind, key))
                else:
                    shutil.rmtree(gone)
                    removed = True
        with suppress(OSError):
            self._references(key).rmdir()
        return removed

    def _references(self, key: str) -> Path:
        return self.root / "refs" / key
