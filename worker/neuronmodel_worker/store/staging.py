"""Where a set is written before it exists: a directory of its own, locked by the process that writes it.

The lock file stands beside the directory, is made before it and removed after it: a directory whose lock is free, or
that has none, belongs to nobody who lives.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import xxhash

from neuronmodel_worker.disk import WrittenFile, create_locked, lock_of_the_dead, sync, writing_to
from neuronmodel_worker.store.keys import Kind
from neuronmodel_worker.store.manifest import MANIFEST, FileEntry, Manifest, SealedSet

LOCK_SUFFIX = ".lock"
READ_BYTES = 8 << 20

# The Job and the worker share a group, not always a user.
FILE_MODE, DIRECTORY_MODE = 0o660, 0o770


class Staging:
    """`directory` takes the set's files; `seal` makes them a set. Outside `Store.stage` there is no use for it."""

    def __init__(self, root: Path, kind: Kind, key: str, publish: Callable[["Staging", Manifest], SealedSet]) -> None:
        self.kind: Kind = kind
        self.key = key
        self.directory = root / f"{kind}-{key}-{os.urandom(6).hex()}"
        self._lock_path = self.directory.with_name(self.directory.name + LOCK_SUFFIX)
        self._publish = publish
        self._known: dict[str, WrittenFile] = {}
        root.mkdir(parents=True, exist_ok=True)
        self._lock = create_locked(self._lock_path)
        os.write(self._lock, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        self.directory.mkdir()

    def record(self, files: Iterable[WrittenFile], under: str = "") -> None:
        """Digests that were taken while writing, of files in the folder `under`: they need not be read again."""
        prefix = f"{under}/" if under else ""
        self._known.update({prefix + file.name: file for file in files})

    def seal(self, manifest_extra: Mapping[str, object] | None = None) -> SealedSet:
        """Everything onto the disk, the manifest last, then the final name. `manifest_extra` may give `inputs`,
        `source_fingerprint` and more. Returns the set that now has the key, perhaps another writer's."""
        with writing_to(self.directory.parent):
            manifest = Manifest.model_validate(
                {
                    "kind": self.kind,
                    "key": self.key,
                    "created": datetime.now(UTC),
                    "files": {name: self._entry(name) for name in self._names()},
                    **(manifest_extra or {}),
                }
            )
            (self.directory / MANIFEST).write_text(manifest.model_dump_json(indent=1))
            self._sync_everything()
            return self._publish(self, manifest)

    def _names(self) -> list[str]:
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.directory).as_posix() for path in files)

    def _entry(self, name: str) -> FileEntry:
        path, known = self.directory / name, self._known.get(name)
        nbytes = path.stat().st_size
        if known and known.nbytes == nbytes:
            return FileEntry(nbytes=nbytes, digest=known.digest, algorithm=known.algorithm)
        return FileEntry(nbytes=nbytes, digest=_digest(path), algorithm="xxh3-128")

    def _sync_everything(self) -> None:
        for path in [*sorted(self.directory.rglob("*"), reverse=True), self.directory]:
            path.chmod(path.stat().st_mode | (DIRECTORY_MODE if path.is_dir() else FILE_MODE))
            sync(path)

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)


def _digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            state.update(data)
    return state.hexdigest()


def remove_leftovers(root: Path) -> None:
    """Remove what writers that are gone have left; a living writer's staging is locked."""
    if not root.is_dir():
        return
    for directory in [path for path in root.iterdir() if path.is_dir()]:
        lock = directory.with_name(directory.name + LOCK_SUFFIX)
        if not lock.exists():
            shutil.rmtree(directory, ignore_errors=True)
    for lock in root.glob(f"*{LOCK_SUFFIX}"):
        with lock_of_the_dead(lock) as dead:
            if dead:
                shutil.rmtree(lock.with_name(lock.name.removesuffix(LOCK_SUFFIX)), ignore_errors=True)
                lock.unlink(missing_ok=True)
