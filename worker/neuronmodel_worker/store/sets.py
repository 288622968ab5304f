"""The artifact store of one volume: sealed sets under their keys, the staging of new ones, the damaged ones apart.

    compiled/<key>/…            shards/<key>/weights/…          sets, each with a manifest.json
    staging/<kind>-<key>-…/     what is being written
    quarantine/<kind>-<key>-…/  what failed a check, with the reason beside it
    refs/<key>/<owner>          who needs a set
    leases/<kind>-<key>         who builds one

Correctness rests on one rename, on no lock: whoever publishes second finds the set there and lets it be.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from neuronmodel_api.config import Verification
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew, ArtifactsUnreadable, ArtifactsVolumeFull
from neuronmodel_worker.io.disk import FULL, free_bytes, sync, writing_to
from neuronmodel_worker.store import explain
from neuronmodel_worker.store.checks import THREADS, Progress, all_problems, full_problems
from neuronmodel_worker.store.collection import Collected, Item, Policy, in_order, would_make_room
from neuronmodel_worker.store.files import (
    FILE_MODE,
    HIDDEN,
    TEMPORARY,
    make_directory,
    matching,
    nbytes_below,
    remove_tree,
)
from neuronmodel_worker.store.keys import KINDS, Kind, is_key
from neuronmodel_worker.store.leases import Lease, Waiting, abandon, acquire
from neuronmodel_worker.store.locks import Patience, create_locked, is_at, writer_is_dead
from neuronmodel_worker.store.manifest import MANIFEST, Manifest, SealedSet, read_checked, read_manifest
from neuronmodel_worker.store.references import REFERENCES, References
from neuronmodel_worker.store.staging import (
    LOCK_SUFFIX,
    WEIGHTS,
    Staging,
    is_as_sealed,
    lock_path,
    remove_leftovers,
    remove_staging,
    sealed_files,
    set_of,
    stagings,
)

TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
STAGING, QUARANTINE, LEASES, REMOVED = "staging", "quarantine", "leases", "removed"
REASON = ".reason.txt"


@dataclass(frozen=True, slots=True)
class Quarantined:
    kind: Kind
    key: str
    reason: str
    directory: Path


@dataclass(frozen=True)
class Work:
    """What `Store.build` gives: the set, where somebody sealed it meanwhile, or else the staging to write it into."""

    present: SealedSet | None = None
    lease: Lease | None = None
    _staging: Staging | None = None

    @property
    def staging(self) -> Staging:
        if self._staging is None:
            raise RuntimeError("the set is there, and nothing is to be written")
        return self._staging


class Store:
    """`read_only` is for those who serve: nothing is changed, and damage raises ArtifactDamaged."""

    def __init__(self, root: Path, read_only: bool = False, patience: Patience | None = None) -> None:
        self.root = root
        self.read_only = read_only
        self.patience = patience or Patience()
        self.references = References(root)
        self.quarantined: list[Quarantined] = []
        if not read_only:
            with writing_to(root):
                root.mkdir(parents=True, exist_ok=True)
                for name in (STAGING, QUARANTINE):  # now: on a full volume nothing can be made, and has to be removed
                    make_directory(root / name)
                remove_leftovers(root / STAGING, self.patience, self._is_there)
                self._remove_unfinished()
                self._remove_lonely_reasons()

    def path(self, kind: Kind, key: str) -> Path:
        return self.root / kind / key

    @property
    def is_new(self) -> bool:
        """Whether no set was ever sealed on this volume; where it can't be read, it is not known to be."""
        return all(_holds_nothing(self.root / name) for name in (*KINDS, QUARANTINE))

    # Finding

    def find(
        self,
        kind: Kind,
        key: str,
        *,
        verification: Verification = Verification.QUICK,
        progress: Progress | None = None,
    ) -> SealedSet | None:
        """The sealed set of that key, checked. A damaged one is put into quarantine and counts as absent.

        Raises ArtifactDamaged where nothing may be changed, ArtifactsTooNew, ArtifactsUnreadable.
        """
        while True:
            with self._opened(kind, key) as place:
                if place is None:
                    return None
                try:
                    return self._check(place, kind, key, verification, progress)
                except ArtifactDamaged as damage:
                    if not is_at(place.descriptor, place.directory):
                        continue  # it was another one's turn while we looked
                    if self.read_only:
                        raise
                    self._put_apart(place, kind, key, str(damage))

    @contextmanager
    def _opened(self, kind: Kind, key: str) -> Iterator["_Place | None"]:
        """Open, so that what was looked at can be told from what may come to its place."""
        directory = self.path(kind, key)
        try:
            descriptor = os.open(directory, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        except OSError as error:
            raise ArtifactsUnreadable(directory, error) from error
        try:
            yield _Place(directory, descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _check(
        place: "_Place", kind: Kind, key: str, verification: Verification, progress: Progress | None
    ) -> SealedSet:
        manifest = read_checked(place.directory, kind, key)
        if verification is Verification.FULL:
            for problem in full_problems(place.directory, manifest, progress):
                raise ArtifactDamaged(place.directory, problem)
        return SealedSet(place.directory, manifest)

    def problems(
        self,
        kind: Kind,
        key: str,
        *,
        full: bool = False,
        progress: Progress | None = None,
        threads: int = THREADS,
        quarantine: bool = False,
    ) -> list[str]:
        """Everything that is wrong with a set; nothing where there is none. With `quarantine` it is put apart for it.

        Raises ArtifactsTooNew, ArtifactsUnreadable.
        """
        while True:
            with self._opened(kind, key) as place:
                if place is None:
                    return []
                found = all_problems(place.directory, kind, key, full, progress, threads)
                if not is_at(place.descriptor, place.directory):
                    continue
                if found and quarantine:
                    more = f", and {len(found) - 1} more" if found[1:] else ""
                    self._put_apart(place, kind, key, str(ArtifactDamaged(place.directory, f"{found[0]}{more}")))
                return found

    def quarantine(self, kind: Kind, key: str, reason: str) -> None:
        """Take a set away from its key, and keep it with the reason for whoever wants to know."""
        with self._opened(kind, key) as place:
            if place:
                self._put_apart(place, kind, key, reason)

    def _put_apart(self, place: "_Place", kind: Kind, key: str, reason: str) -> None:
        """The reason first: a set that lies apart without one tells nobody anything."""
        apart = self.root / QUARANTINE / f"{kind}-{key}-{os.urandom(6).hex()}"
        with writing_to(self.root):
            make_directory(apart.parent)
            with self._told(reason, apart.with_name(apart.name + REASON)) as told:
                try:
                    place.directory.rename(apart)
                except FileNotFoundError:  # another one was quicker
                    return
                if not is_at(place.descriptor, apart):  # and has put a good one there since
                    self._put_back(apart, place.directory)
                    return
                told()
            sync(apart.parent)
            sync(place.directory.parent)
        self.quarantined.append(Quarantined(kind, key, reason, apart))

    @contextmanager
    def _told(self, reason: str, path: Path) -> Iterator[Callable[[], None]]:
        """A file with the reason, locked so that nobody takes it for a dead one's; it is gone after the context unless
        what is given was called."""
        descriptor, stays = create_locked(path), threading.Event()
        try:
            with suppress_full():
                os.fchmod(descriptor, FILE_MODE)
                os.write(descriptor, f"{reason}\n".encode())
                os.fsync(descriptor)
                sync(path.parent)
            yield stays.set
        finally:
            if not stays.is_set():
                path.unlink(missing_ok=True)
            os.close(descriptor)

    def _put_back(self, apart: Path, directory: Path) -> None:
        try:
            apart.rename(directory)
            sync(directory.parent)
        except OSError as error:
            if error.errno not in TAKEN:
                raise
            remove_tree(self._away(apart))

    # Building

    @contextmanager
    def build(self, kind: Kind, key: str, waiting: Waiting | None = None) -> Iterator[Work]:
        """The set, or a staging to write it into while nobody else does, with what others had sealed of it.

        What is neither sealed nor a sealed rank file is gone after the context; where the volume was full, all of it.
        """
        if present := self.find(kind, key):
            yield Work(present)
            return
        with writing_to(self.root):
            make_directory(self.root / LEASES)
            place = self.root / LEASES / f"{kind}-{key}"
            try:
                lease = acquire(place, self.patience, lambda: self.find(kind, key), waiting)
            except BaseException:
                abandon(place)
                raise
        if isinstance(lease, SealedSet):
            yield Work(lease)
            return
        try:
            with beating(lease.renew, self.patience):
                if present := self.find(kind, key):
                    yield Work(present)
                    return
                with self.stage(kind, key) as staging:
                    self._adopt(staging)
                    yield Work(None, lease, staging)
        finally:
            lease.release()

    def _adopt(self, staging: Staging) -> None:
        for other in stagings(self.root / STAGING, f"{staging.kind}-{staging.key}-"):
            if other != staging.directory:
                with writer_is_dead(lock_path(other), self.patience) as dead:
                    staging.adopt(other, may_move=dead)
                    if dead:
                        remove_staging(other)

    def adoptable_bytes(self, kind: Kind, key: str) -> int:
        """Of rank files that earlier writers of the set had sealed: so much less is to be written."""
        found = {}
        for directory in stagings(self.root / STAGING, f"{kind}-{key}-"):
            for name, file in sealed_files(directory, kind, key).items():
                if is_as_sealed(directory / WEIGHTS / name, file):
                    found[name] = file.nbytes
        return sum(found.values())

    @contextmanager
    def stage(self, kind: Kind, key: str) -> Iterator[Staging]:
        """A directory to write a set into, whoever else does so. What is neither sealed nor a sealed rank file is gone
        after the context; where the volume was full, all of it."""
        with writing_to(self.root):
            make_directory(self.root / STAGING)
            staging = Staging(self.root / STAGING, kind, key, self._publish)
        keep_sealed = True
        try:
            with beating(staging.renew, self.patience):
                yield staging
        except BaseException as error:
            # Also what was stopped because something beside it found the volume full.
            keep_sealed = not (_is_full(error) or _is_full(error.__cause__))
            raise
        finally:
            staging.close(keep_sealed)

    def _publish(self, staging: Staging, manifest: Manifest) -> SealedSet:
        final = self.path(staging.kind, staging.key)
        make_directory(final.parent)
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
                sync(self.root / STAGING)
                return SealedSet(final, manifest)

    # References

    def refer(self, kind: Kind, key: str, owner: str) -> None:
        """Note that `owner` (`namespace.name.uid`) needs the set. References that a deleted model of the same name
        left are taken over. What is found after it stays: a removal that is under way is waited for."""
        self.references.refer(kind, key, owner)
        self._wait_for_removals(key)

    def unrefer(self, owner: str, keep: Iterable[str] = ()) -> list[str]:
        """Remove the owner's references, but those to the keys in `keep`; `owner` may hold `*`, for any UID.

        Returns the keys that are no longer referred to by it.
        """
        return self.references.unrefer(owner, keep)

    def owners(self, key: str) -> list[str]:
        return self.references.owners(key)

    def retire(self, owner: str) -> list[str]:
        """As `unrefer`, for an owner that is gone for good: the keys are told again until `remove_unreferenced` was
        through with them."""
        return self.references.retire(owner)

    def remove_unreferenced(self, keys: Iterable[str], keys_in_use: Iterable[str] = ()) -> list[str]:
        """Remove everything of those keys that nobody refers to or uses. Returns the keys whose sets were removed."""
        wanted = set(keys)
        with writing_to(self.root):
            items = [item for item in self.items(keys_in_use) if item.key in wanted and item.is_unneeded]
            removed = {item.key for item in items if self._remove(item) and item.what == "set"}
            for key in wanted:
                self.references.forget(key)
        return sorted(removed)

    def explain(self, kind: Kind, inputs: Mapping[str, object], owner: str) -> list[str]:
        """In which inputs of its key a wanted set differs from the one that this owner referred to before, or from the
        nearest one on the volume; empty where there is none to compare with."""
        own = (self._inputs(kind, key) for key in self.references.keys_of(owner))
        before = next(([each] for each in own if each and each != inputs), None)
        if before is None:
            every = (self._inputs(kind, key) for key in self._keys(kind))
            before = [each for each in every if each and each != inputs]
        return min((explain.differences(each, inputs) for each in before), key=len, default=[])

    def _keys(self, kind: Kind) -> list[str]:
        try:
            return sorted(each.name for each in (self.root / kind).iterdir() if is_key(each.name))
        except FileNotFoundError:
            return []

    def _inputs(self, kind: Kind, key: str) -> dict[str, object] | None:
        try:
            return dict(read_manifest(self.path(kind, key)).inputs)
        except (OSError, ArtifactDamaged, ArtifactsTooNew):
            return None

    # Room

    def require_space(self, nbytes: int, keep: Iterable[str] = (), collect: bool = True) -> Collected | None:
        """Raises ArtifactsVolumeFull when the volume has not that much room, even after what nobody needs was removed.
        `keep`: keys that are needed though nobody refers to them."""
        if free_bytes(self.root) >= nbytes:
            return None
        collected = None
        if collect and not self.read_only:
            collected = self.collect(Policy(older_than_seconds=None, want_bytes=nbytes, keep=frozenset(keep)))
        if (free := free_bytes(self.root)) < nbytes:
            raise ArtifactsVolumeFull(self.root, nbytes, free, self.in_use(keep))
        return collected

    def collect(self, policy: Policy) -> Collected:
        """Remove what nobody needs: what is older than the policy's age, and then, the oldest first, as much more as
        makes the room that it wants."""
        free, gone = free_bytes(self.root), list[Item]()
        with writing_to(self.root):
            for item in in_order(self.items(policy.keep, policy.without)):
                old = policy.older_than_seconds is not None and policy.now() - item.since >= policy.older_than_seconds
                if (old or free < policy.want_bytes) and (policy.dry_run or self._remove(item)):
                    gone.append(item)
                    free = free + item.nbytes if policy.dry_run else free_bytes(self.root)
        return Collected(tuple(gone), free)

    def in_use(self, keep: Iterable[str] = ()) -> str:
        """A sentence on what takes room and is needed; empty where nothing is."""
        return would_make_room(self.items(keep))

    def reason(self, quarantined: Path) -> str:
        """Why it was put there."""
        try:
            return quarantined.with_name(quarantined.name + REASON).read_text(errors="replace").strip()
        except OSError:
            return "nobody wrote down why"

    def items(self, keys_in_use: Iterable[str] = (), without: Iterable[str] = ()) -> list[Item]:
        """Everything that takes room, with who needs it. The references of the owners in `without` do not count."""
        removed = set(without)
        return [_without(item, removed) for item in self._items(set(keys_in_use))]

    def _items(self, in_use: set[str]) -> list[Item]:
        sets = [self._set_item(kind, key, key in in_use) for kind in KINDS for key in self._keys(kind)]
        halves = [self._staging_item(each, in_use) for each in stagings(self.root / STAGING)]
        apart = [self._apart_item(each, in_use) for each in stagings(self.root / QUARANTINE)]
        return [each for each in (*sets, *halves, *apart) if each]

    def _set_item(self, kind: Kind, key: str, in_use: bool) -> Item | None:
        directory = self.path(kind, key)
        try:
            made = directory.stat().st_mtime
        except FileNotFoundError:
            return None
        since = max(made, self.references.changed(key) or 0)
        return Item("set", kind, key, directory, nbytes_below(directory), since, tuple(self.owners(key)), in_use)

    def _staging_item(self, directory: Path, in_use: set[str]) -> Item | None:
        kind, key = set_of(directory)
        with suppress(FileNotFoundError), writer_is_dead(lock_path(directory), self.patience) as dead:
            since = max(directory.stat().st_mtime, self.references.changed(key) or 0)
            owners = tuple(self.owners(key))
            return Item(
                "staging", kind, key, directory, nbytes_below(directory), since, owners, key in in_use, not dead
            )
        return None

    def _apart_item(self, directory: Path, in_use: set[str]) -> Item | None:
        kind, key = set_of(directory)
        with suppress(FileNotFoundError):
            since, owners = directory.stat().st_ctime, tuple(self.owners(key))
            return Item("quarantined", kind, key, directory, nbytes_below(directory), since, owners, key in in_use)
        return None

    def _remove(self, item: Item) -> bool:
        """False where somebody came to need it meanwhile, or was quicker."""
        if item.what == "staging":
            with writer_is_dead(lock_path(item.directory), self.patience) as dead:
                if dead and not self.owners(item.key):
                    remove_staging(item.directory)
                    return True
                return False
        if item.what == "quarantined":
            told = item.directory.with_name(item.directory.name + REASON)
            remove_tree(self._away(item.directory))
            told.unlink(missing_ok=True)
            return True
        return self._remove_set(item)

    def _remove_set(self, item: Item) -> bool:
        """Away from its name, between two looks at who refers to it: who refers before the first is seen, and who does
        so after it waits for this (`_wait_for_removals`). The second is for a volume too full for a lock file. Who has
        its files open reads on."""
        with self._removing(item.key) as apart:
            if self.owners(item.key):
                return False
            try:
                item.directory.rename(apart)
            except FileNotFoundError:
                return False
            if self.owners(item.key):
                self._put_back(apart, item.directory)
                return False
            sync(item.directory.parent)
        remove_tree(apart)
        self.references.forget(item.key)
        return True

    @contextmanager
    def _removing(self, key: str) -> Iterator[Path]:
        """A place for what is removed, which nobody else clears up within the context."""
        apart = self._aside(key)
        try:
            lock = create_locked(lock_path(apart))
        except OSError as error:
            if error.errno not in FULL:
                raise
            yield apart
            return
        try:
            yield apart
        finally:
            with suppress(OSError):
                lock_path(apart).unlink(missing_ok=True)
            os.close(lock)

    def _wait_for_removals(self, key: str) -> None:
        """Whoever is about to remove the set may not have seen a reference that was just made: only when it has decided
        is what is found under the name there to stay."""
        began = self.patience.clock()
        for lock in sorted((self.root / STAGING).glob(f"{REMOVED}-{key}-*{LOCK_SUFFIX}")):
            while self.patience.clock() - began < self.patience.lapse_seconds:
                with writer_is_dead(lock, self.patience) as dead:
                    if dead:
                        break
                self.patience.pause(min(self.patience.poll_seconds, 0.05))

    def _away(self, directory: Path) -> Path:
        """Renamed to what any writer clears up: whole under its name, or on its way out. Makes nothing, for that could
        not be done on a full volume."""
        apart = self._aside(directory.name)
        directory.rename(apart)
        return apart

    def _aside(self, name: str) -> Path:
        return self.root / STAGING / f"{REMOVED}-{name}-{os.urandom(6).hex()}"

    def _remove_unfinished(self) -> None:
        """Small files whose writers died before they had their names, and leases whose holders did."""
        leases = (f"{LEASES}/{begin}{kind}-*" for begin in ("", HIDDEN) for kind in KINDS)
        for pattern in (f"*/{TEMPORARY}*", f"{REFERENCES}/*/{TEMPORARY}*", *leases):
            for path in matching(self.root, pattern):
                with suppress(FileNotFoundError), writer_is_dead(path, self.patience) as dead:
                    if dead:
                        path.unlink()

    def _remove_lonely_reasons(self) -> None:
        """Written before a set was put apart, by somebody who died before it was."""
        for told in sorted((self.root / QUARANTINE).glob(f"*{REASON}")):
            apart = told.with_name(told.name.removesuffix(REASON))
            if not apart.exists():
                with writer_is_dead(told, self.patience) as dead:
                    if dead and not apart.exists():
                        told.unlink(missing_ok=True)

    def _is_there(self, kind: Kind, key: str) -> bool:
        return (self.path(kind, key) / MANIFEST).exists()


@dataclass(frozen=True, slots=True)
class _Place:
    directory: Path
    descriptor: int


@contextmanager
def suppress_full() -> Iterator[None]:
    """For what is worth saying and has no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise


def _without(item: Item, removed: set[str]) -> Item:
    owners = tuple(each for each in item.owners if each not in removed)
    return item if owners == item.owners else replace(item, owners=owners, since=time.time())


@contextmanager
def beating(renew: Callable[[], None], patience: Patience) -> Iterator[None]:
    """Calls `renew` every `patience.renew_seconds` until the end of the context."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(patience.renew_seconds):
            renew()

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(patience.renew_seconds)  # a volume that hangs must not keep this process


def _is_full(error: BaseException | None) -> bool:
    return isinstance(error, ArtifactsVolumeFull) or (isinstance(error, OSError) and error.errno in FULL)


def _holds_nothing(directory: Path) -> bool:
    try:
        return next(directory.iterdir(), None) is None
    except FileNotFoundError:
        return True
    except OSError:
        return False
