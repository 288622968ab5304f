"""The artifact store of one volume: sealed sets under their keys, each of them whole or absent."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from neuronmodel_api.config import Verification
from neuronmodel_worker.io.disk import writing_to
from neuronmodel_worker.store.atomic_files import make_directory
from neuronmodel_worker.store.building import Build, Builder
from neuronmodel_worker.store.collection import Collected, Collector, Policy
from neuronmodel_worker.store.inventory import Item
from neuronmodel_worker.store.key_differences import nearest_differences
from neuronmodel_worker.store.keys import ArtifactKind
from neuronmodel_worker.store.leases import Waiting
from neuronmodel_worker.store.locks import LeaseTimings
from neuronmodel_worker.store.lookup import SetLookup
from neuronmodel_worker.store.manifest import SealedSet
from neuronmodel_worker.store.quarantine import Quarantine, Quarantined, read_reason
from neuronmodel_worker.store.references import References
from neuronmodel_worker.store.removal import remove_unfinished_files, wait_for_removals
from neuronmodel_worker.store.staging import Staging, remove_leftovers
from neuronmodel_worker.store.verification import VerifyProgress
from neuronmodel_worker.store.volume_layout import Volume


class Store:
    """`read_only` is for those who serve: nothing is changed, and damage raises ArtifactDamaged."""

    def __init__(self, root: Path, read_only: bool = False, timings: LeaseTimings | None = None) -> None:
        self.root = root
        self.read_only = read_only
        self.volume = Volume(root, timings or LeaseTimings())
        self.references = References(root)
        self.quarantine_area = Quarantine(self.volume)
        self._lookup = SetLookup(self.volume, None if read_only else self.quarantine_area)
        self._builder = Builder(self.volume, self._lookup)
        self._collector = Collector(self.volume, self.references, self.quarantine_area)
        if not read_only:
            with writing_to(root):
                self._clean_up()

    def _clean_up(self) -> None:
        """Remove what writers that died have left, and nobody can use."""
        self.root.mkdir(parents=True, exist_ok=True)
        # Made now: on a full volume nothing can be made, and yet sets have to be removed.
        for directory in (self.volume.staging, self.volume.quarantine):
            make_directory(directory)
        remove_leftovers(self.volume.staging, self.volume.timings, self.volume.has)
        remove_unfinished_files(self.volume)
        self.quarantine_area.remove_orphaned_reasons()

    def path(self, kind: ArtifactKind, key: str) -> Path:
        return self.volume.path(kind, key)

    @property
    def is_new(self) -> bool:
        """Whether no set was ever sealed on this volume. False where it cannot be read."""
        return self.volume.is_new

    def find(
        self,
        kind: ArtifactKind,
        key: str,
        *,
        verification: Verification = Verification.QUICK,
        progress: VerifyProgress | None = None,
    ) -> SealedSet | None:
        """The sealed set of that key, checked. A damaged one is put into quarantine and counts as absent.

        Raises ArtifactDamaged where the store is read-only, ArtifactsTooNew, ArtifactsUnreadable.
        """
        return self._lookup.find(kind, key, verification, progress)

    def problems(
        self,
        kind: ArtifactKind,
        key: str,
        *,
        full: bool = False,
        progress: VerifyProgress | None = None,
        threads: int | None = None,
        quarantine: bool = False,
    ) -> list[str]:
        """Everything that is wrong with a set; empty where there is none. With `quarantine`, a set that has problems is
        put into quarantine.

        Raises ArtifactsTooNew, ArtifactsUnreadable.
        """
        area = self.quarantine_area if quarantine else None
        return self._lookup.problems(kind, key, full, progress, threads, area)

    def quarantine(self, kind: ArtifactKind, key: str, reason: str) -> None:
        """Take a set away from its key, and keep it with the reason for whoever wants to know."""
        with self.volume.open(kind, key) as opened:
            if opened:
                self.quarantine_area.add(opened, kind, key, reason)

    @property
    def quarantined(self) -> list[Quarantined]:
        """The sets that this process has put into quarantine."""
        return self.quarantine_area.added

    def reason(self, quarantined: Path) -> str:
        """Why a set was put into quarantine."""
        return read_reason(quarantined)

    @contextmanager
    def build(self, kind: ArtifactKind, key: str, waiting: Waiting | None = None) -> Iterator[Build]:
        """The set, or a staging to write it into while nobody else does, with the rank files that others have sealed.

        What is neither sealed nor a sealed rank file is removed after the context; where the volume was full, all of
        it is.
        """
        with self._builder.build(kind, key, waiting) as work:
            yield work

    @contextmanager
    def stage(self, kind: ArtifactKind, key: str) -> Iterator[Staging]:
        """A directory to write a set into, whoever else does so; it is removed as that of `build`."""
        with self._builder.stage(kind, key) as staging:
            yield staging

    def adoptable_bytes(self, kind: ArtifactKind, key: str) -> int:
        """The bytes of the rank files that earlier writers of the set have sealed, and that need not be written."""
        return self._builder.adoptable_bytes(kind, key)

    def refer(self, kind: ArtifactKind, key: str, owner: str) -> None:
        """Note that `owner` (`namespace.name.uid`) needs the set. References that a deleted model of the same name
        left are taken over. A removal that is under way is waited for, so that a set that is found afterwards stays."""
        self.references.refer(kind, key, owner)
        wait_for_removals(self.volume, key)

    def unrefer(self, owner: str, keep: Iterable[str] = ()) -> list[str]:
        """Remove the owner's references, except those to the keys in `keep`; `owner` may hold `*`, for any UID.

        Returns the keys that the owner no longer refers to.
        """
        return self.references.unrefer(owner, keep)

    def retire(self, owner: str) -> list[str]:
        """As `unrefer`, for an owner that is deleted: a key is returned at every call until `remove_unreferenced` has
        finished with it."""
        return self.references.retire(owner)

    def owners(self, key: str) -> list[str]:
        return self.references.owners(key)

    def remove_unreferenced(self, keys: Iterable[str], keys_in_use: Iterable[str] = ()) -> list[str]:
        """Remove everything of those keys that nobody refers to or uses. Returns the keys whose sets were removed."""
        return self._collector.remove_unreferenced(keys, keys_in_use)

    def explain(self, kind: ArtifactKind, inputs: Mapping[str, object], owner: str) -> list[str]:
        """The inputs of its key in which a wanted set differs from the one that this owner referred to before, or from
        the nearest one on the volume; empty where there is none to compare with."""
        return nearest_differences(self.volume, self.references, kind, inputs, owner)

    def require_space(self, nbytes: int, keep: Iterable[str] = (), collect: bool = True) -> Collected | None:
        """Raises ArtifactsVolumeFull when the volume does not have `nbytes` free, even after what nobody needs was
        removed. `keep` are keys that are needed though nobody refers to them."""
        return self._collector.require_space(nbytes, keep, collect and not self.read_only)

    def collect(self, policy: Policy) -> Collected:
        """Remove what nobody needs: what is older than the policy's age, and then, the oldest first, as much as it
        takes to free the bytes that the policy wants."""
        return self._collector.collect(policy)

    def items(self, keys_in_use: Iterable[str] = (), without: Iterable[str] = ()) -> list[Item]:
        """Everything that takes up space, with who needs it. The references of the owners in `without` do not count."""
        return self._collector.inventory.items(keys_in_use, without)

    def in_use(self, keep: Iterable[str] = ()) -> str:
        """A sentence on what takes up space and is needed; empty where nothing is."""
        return self._collector.inventory.in_use(keep)
