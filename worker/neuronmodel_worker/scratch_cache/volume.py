"""The cache's part of a scratch volume: which copies exist, who uses them, and where a new one is made."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from neuronmodel_worker.io.disk import sync
from neuronmodel_worker.scratch_cache.capacity import CachedCopy, VolumeSpace, evictions
from neuronmodel_worker.scratch_cache.errors import TierTooSmall, writing_copy
from neuronmodel_worker.scratch_cache.locks import FileLock

CopyKind = Literal["shards", "source", "folder"]
SHARDS_COPY: Final = "shards"
SOURCE_COPY: Final = "source"
FOLDER_COPY: Final = "folder"
KINDS: Final[tuple[CopyKind, ...]] = (SHARDS_COPY, SOURCE_COPY, FOLDER_COPY)

# Pods of one node may share a group, but not always a user.
FILE_MODE, DIRECTORY_MODE = 0o660, 0o770
BLOCK_OF_STAT = 512


class Tier:
    """The copies on one scratch volume. Methods raise TierError.

    A copy that a worker uses stays locked until `close` or the end of the process, so that others do not evict it.
    """

    def __init__(self, scratch: Path, limit_bytes: int | None = None) -> None:
        """`limit_bytes` is how much may be written below `scratch` in all."""
        self.root = scratch / "tier"
        self._scratch = scratch
        self._limit = limit_bytes
        self._writing = self.root / "writing"
        self._locks = self.root / "locks"
        self._use_locks: dict[str, FileLock] = {}

    def path(self, kind: CopyKind, key: str) -> Path:
        return self.root / kind / key

    def use(self, kind: CopyKind, key: str) -> Path | None:
        """Returns the directory of a copy and marks it as in use; the caller checks whether the copy is good."""
        directory = self.path(kind, key)
        if not directory.is_dir():
            return None
        with writing_copy(self.root):
            self._mark_in_use(kind, key)
        return directory if directory.is_dir() else None

    def _mark_in_use(self, kind: CopyKind, key: str) -> None:
        self._locks.mkdir(parents=True, exist_ok=True)
        name = f"{kind}-{key}"
        if name not in self._use_locks:
            self._use_locks[name] = FileLock.shared(self._users(name))
        self._use_locks[name].touch()

    def drop(self, kind: CopyKind, key: str) -> None:
        """Removes an unusable copy, even if it is in use: open files stay readable."""
        with writing_copy(self.root):
            self._remove(kind, key)

    def close(self) -> None:
        """Lets other workers evict what was in use."""
        while self._use_locks:
            self._use_locks.popitem()[1].release()

    def finished_with(self, kind: CopyKind, key: str) -> None:
        """Removes a copy that this worker does not need again, unless another one uses it."""
        name = f"{kind}-{key}"
        with writing_copy(self.root):
            if lock := self._use_locks.pop(name, None):
                lock.release()
            if self.path(kind, key).is_dir():
                self._evict(kind, key)

    def begin(self, kind: CopyKind, key: str, nbytes: int, *, resumes: bool = False) -> "PendingCopy | None":
        """Creates the place for a copy of which `nbytes` will be written, or returns None if another worker is making
        it. With `resumes`, the place has what a dead writer left of it. Raises TierTooSmall."""
        name = f"{kind}-{key}"
        with writing_copy(self.root):
            for directory in (self._locks, self._writing, self.root / kind):
                directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock.exclusive(self._writer(name))
            if lock is None:
                return None
            try:
                self._remove_leftovers(of=name, resumes=resumes)
                self.require_space(nbytes, spare=name)
                directory = self._writing / name
                directory.mkdir(exist_ok=resumes)
            except BaseException:
                lock.release()
                raise
        return PendingCopy(self, kind, key, directory, lock)

    def leftover(self, kind: CopyKind, key: str) -> Path:
        """Where a dead writer of this copy has left what it had; `begin` with `resumes` takes it over."""
        return self._writing / f"{kind}-{key}"

    def make_room(self, kind: CopyKind, key: str, nbytes: int) -> None:
        """Makes space for `nbytes` more of a copy that `begin` will resume. Raises TierTooSmall."""
        name = f"{kind}-{key}"
        with writing_copy(self.root):
            for directory in (self._locks, self._writing):
                directory.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers(of=name, resumes=True)
            self.require_space(nbytes, spare=name)

    def require_space(self, nbytes: int, spare: str = "") -> None:
        """Evicts copies until there is space for `nbytes`. Raises TierTooSmall and OSError."""
        while (space := self._space()).writable_bytes < nbytes:
            kept = [copy for copy in self.kept() if f"{copy.kind}-{copy.key}" != spare]
            going = evictions(space, nbytes, kept)
            if going is None:
                raise TierTooSmall(nbytes, max(0, space.writable_bytes))
            self._evict(going[0].kind, going[0].key)

    def _space(self) -> VolumeSpace:
        stat = os.statvfs(self.root)
        used = sum(_nbytes(self._scratch)) if self._limit is not None else 0
        return VolumeSpace(stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize, self._limit, used)

    def kept(self) -> Iterator[CachedCopy]:
        for kind in KINDS:
            for directory in _directories(self.root / kind):
                name = f"{kind}-{directory.name}"
                used_at = self._used_at(name, directory)
                yield CachedCopy(kind, directory.name, sum(_nbytes(directory)), used_at, self._is_in_use(name))

    def _used_at(self, name: str, directory: Path) -> float:
        for path in (self._users(name), directory):
            with suppress(FileNotFoundError):
                return path.stat().st_mtime
        return time.time()

    def _is_in_use(self, name: str) -> bool:
        if not self._users(name).exists():
            return False
        lock = FileLock.exclusive(self._users(name))
        if lock:
            lock.release()
        return lock is None

    def _evict(self, kind: str, key: str) -> None:
        """Evicts the copy, unless another worker has begun to use it."""
        lock = FileLock.exclusive(self._users(f"{kind}-{key}"))
        if lock:
            self._remove(kind, key)
            lock.release(remove=True)

    def _remove(self, kind: str, key: str) -> None:
        """Renames the directory before it removes it, so that nobody finds half a copy."""
        self._writing.mkdir(parents=True, exist_ok=True)
        going = self._writing / f"{kind}-{key}.{os.urandom(4).hex()}"
        with suppress(FileNotFoundError):
            (self.root / kind / key).rename(going)
            shutil.rmtree(going, ignore_errors=True)

    def _remove_leftovers(self, of: str, *, resumes: bool) -> None:
        """Removes what dead writers left; `of` is the copy that the caller writes, of which it stays if the caller
        resumes it."""
        for directory in _directories(self._writing):
            name = directory.name.partition(".")[0]
            if resumes and directory.name == of:
                continue
            lock = None if name == of else FileLock.exclusive(self._writer(name))
            if name == of or lock:
                shutil.rmtree(directory, ignore_errors=True)
            if lock:
                lock.release(remove=True)

    def published(self, writing: "PendingCopy") -> None:
        """Marks as in use what `PendingCopy.publish` has put in its place."""
        self._mark_in_use(writing.kind, writing.key)

    def _users(self, name: str) -> Path:
        return self._locks / f"{name}.users"

    def _writer(self, name: str) -> Path:
        return self._locks / f"{name}.writer"


class PendingCopy:
    """A copy that is being made in `directory`."""

    def __init__(self, tier: Tier, kind: CopyKind, key: str, directory: Path, lock: FileLock) -> None:
        self.kind: CopyKind = kind
        self.key = key
        self.directory = directory
        self._tier = tier
        self._lock = lock

    def publish(self) -> None:
        """Syncs everything to the disk, then gives the copy its name. Raises TierError."""
        final = self._tier.path(self.kind, self.key)
        with writing_copy(final):
            for path in [*sorted(self.directory.rglob("*"), reverse=True), self.directory]:
                path.chmod(path.stat().st_mode | (DIRECTORY_MODE if path.is_dir() else FILE_MODE))
                sync(path)
            self._tier.drop(self.kind, self.key)
            self.directory.rename(final)
            sync(final.parent)
            self._tier.published(self)
            self._lock.release(remove=True)

    def abandon(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Gives up and leaves what is there to the next writer, who resumes it or removes it."""
        with suppress(OSError):
            self._lock.release(remove=True)


def _directories(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _nbytes(directory: Path) -> Iterator[int]:
    """Yields how much each file below the directory takes up on the disk."""
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                yield os.lstat(Path(folder) / name).st_blocks * BLOCK_OF_STAT
