"""Garbage collection: removing what nobody needs, because of its age or to make space on the volume."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from neuronmodel_worker.failures import ArtifactsVolumeFull
from neuronmodel_worker.io.disk import free_bytes, sync, writing_to
from neuronmodel_worker.store.atomic_files import remove_tree
from neuronmodel_worker.store.inventory import Inventory, Item
from neuronmodel_worker.store.locks import writer_is_dead
from neuronmodel_worker.store.quarantine import Quarantine
from neuronmodel_worker.store.references import References
from neuronmodel_worker.store.removal import removing, restore
from neuronmodel_worker.store.staging import lock_path, remove_staging
from neuronmodel_worker.store.volume_layout import Volume

OLD_SECONDS = 7 * 86400.0
RANK = {"quarantined": 0, "staging": 1, "set": 2}


@dataclass(frozen=True, slots=True)
class Policy:
    """`keep` are keys that are needed though nobody refers to them, above all those that templates of pods name.
    `want_bytes` is how much is to be free afterwards; older items go first until it is. With `dry_run` nothing is
    removed."""

    older_than_seconds: float | None = OLD_SECONDS
    want_bytes: int = 0
    keep: frozenset[str] = frozenset()
    dry_run: bool = False
    without: frozenset[str] = frozenset()
    """Owners whose references count as removed just now."""
    now: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Collected:
    """`items` were removed, or would be."""

    items: tuple[Item, ...]
    free_bytes: int

    @property
    def nbytes(self) -> int:
        return sum(item.nbytes for item in self.items)


class Collector:
    """Removes items of a volume that nobody needs."""

    def __init__(self, volume: Volume, references: References, quarantine: Quarantine) -> None:
        self._volume = volume
        self._references = references
        self._quarantine = quarantine
        self.inventory = Inventory(volume, references)

    def collect(self, policy: Policy) -> Collected:
        free, gone = free_bytes(self._volume.root), list[Item]()
        with writing_to(self._volume.root):
            for item in in_order(self.inventory.items(policy.keep, policy.without)):
                old = policy.older_than_seconds is not None and policy.now() - item.since >= policy.older_than_seconds
                if (old or free < policy.want_bytes) and (policy.dry_run or self._remove(item)):
                    gone.append(item)
                    free = free + item.nbytes if policy.dry_run else free_bytes(self._volume.root)
        return Collected(tuple(gone), free)

    def require_space(self, nbytes: int, keep: Iterable[str], collect: bool) -> Collected | None:
        root = self._volume.root
        if free_bytes(root) >= nbytes:
            return None
        collected = None
        if collect:
            collected = self.collect(Policy(older_than_seconds=None, want_bytes=nbytes, keep=frozenset(keep)))
        if (free := free_bytes(root)) < nbytes:
            raise ArtifactsVolumeFull(root, nbytes, free, self.inventory.in_use(keep))
        return collected

    def remove_unreferenced(self, keys: Iterable[str], keys_in_use: Iterable[str]) -> list[str]:
        wanted = set(keys)
        with writing_to(self._volume.root):
            items = [item for item in self.inventory.items(keys_in_use) if item.key in wanted and item.is_unneeded]
            removed = {item.key for item in items if self._remove(item) and item.what == "set"}
            for key in wanted:
                self._references.forget(key)
        return sorted(removed)

    def _remove(self, item: Item) -> bool:
        """False where somebody came to need the item meanwhile, or has removed it."""
        if item.what == "staging":
            return self._remove_staging(item)
        if item.what == "quarantined":
            self._quarantine.remove(item.directory)
            return True
        return self._remove_set(item)

    def _remove_staging(self, item: Item) -> bool:
        with writer_is_dead(lock_path(item.directory), self._volume.timings) as dead:
            if dead and not self._references.owners(item.key):
                remove_staging(item.directory)
                return True
            return False

    def _remove_set(self, item: Item) -> bool:
        """Rename the set away between two looks at its references: one that was made before the first look is seen,
        and whoever makes one later waits for the removal (`wait_for_removals`). The second look is for a volume that is
        too full for a lock file. Whoever has its files open reads on."""
        with removing(self._volume, item.key) as renamed:
            if self._references.owners(item.key):
                return False
            try:
                item.directory.rename(renamed)
            except FileNotFoundError:
                return False
            if self._references.owners(item.key):
                restore(self._volume, renamed, item.directory)
                return False
            sync(item.directory.parent)
        remove_tree(renamed)
        self._references.forget(item.key)
        return True


def in_order(items: list[Item]) -> list[Item]:
    """The items that may go, the least useful first: damaged sets, unfinished ones, then whole ones, each by age."""
    return sorted((item for item in items if item.may_go), key=lambda item: (RANK[item.what], item.since))
