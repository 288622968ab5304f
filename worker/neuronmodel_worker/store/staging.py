"""Staging: the directory in which a set is written before it exists, locked by the process that writes it.

    staging/<kind>-<key>-<random>/                  the files of the set
    staging/<kind>-<key>-<random>/seals/<name>.json the seal of one file: it is whole, on the disk, never written again
    staging/<kind>-<key>-<random>.lock              created before the directory and removed after it

The writer of a directory whose lock is free or absent is dead. The files that it sealed stay, for the next writer of
the same set to adopt; the others are removed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew
from neuronmodel_worker.io.disk import WrittenFile, sync, writing_to
from neuronmodel_worker.store.atomic_files import (
    SAFETENSORS,
    header_digest,
    make_directory,
    matching,
    open_to_group,
    remove_tree,
    whole_digest,
    write_whole,
)
from neuronmodel_worker.store.keys import ArtifactKind, is_of_key
from neuronmodel_worker.store.locks import LeaseTimings, WriterLock, writer_is_dead
from neuronmodel_worker.store.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    SealedSet,
    as_entry,
    as_written,
    read_manifest,
)
from neuronmodel_worker.stream.rankfile import WEIGHTS

LOCK_SUFFIX = ".lock"
SEALS = "seals"
NOTE = ".note"


class FileSeal(FileEntry):
    """The seal of one file, and the set that it is for."""

    kind: ArtifactKind
    key: str


class Staging:
    """The files of a set are written into `directory`, and `seal` makes them a set. Made by `Store.build` and
    `Store.stage` alone.

    `adopted` are the rank files that another writer of the same set had sealed, by name: they are in
    `directory/weights` and need not be written again. `notes` are that writer's notes, by name.
    """

    def __init__(
        self, root: Path, kind: ArtifactKind, key: str, publish: Callable[["Staging", Manifest], SealedSet]
    ) -> None:
        self.kind: ArtifactKind = kind
        self.key = key
        self.directory = root / f"{kind}-{key}-{os.urandom(6).hex()}"
        self.adopted: dict[str, WrittenFile] = {}
        self.notes: dict[str, bytes] = {}
        self._publish = publish
        self._known: dict[str, WrittenFile] = {}
        self._is_sealed = False
        try:  # a signal may arrive at any point
            self._lock = WriterLock(lock_path(self.directory))
            self.directory.mkdir()
            open_to_group(self.directory)
            sync(root)
        except BaseException:
            remove_staging(self.directory)
            raise

    def renew(self) -> None:
        self._lock.renew()

    def record(self, files: Iterable[WrittenFile], under: str = "") -> None:
        """Keep digests that were taken while files in the folder `under` were written: they need not be read again."""
        prefix = f"{under}/" if under else ""
        self._known.update({prefix + file.name: file for file in files})

    def seal_rank(self, rank: int, written: WrittenFile) -> None:
        """Seal the rank's file, which is complete, on the disk and has its name in `weights`: whoever builds this set
        next need not write it again, whatever becomes of this process. May be called by several threads."""
        del rank  # the file's name contains it
        with writing_to(self.directory.parent):
            open_to_group(self.directory / WEIGHTS / written.name)
            self._note_sealed(written)
        self.record([written], under=WEIGHTS)

    def note(self, name: str, content: bytes) -> None:
        """Write a small note about what is sealed so far, for whoever adopts it; a second one of the same name replaces
        it."""
        with writing_to(self.directory.parent):
            make_directory(self.directory / SEALS)
            write_whole(self.directory / SEALS / f"{name}{NOTE}", content)

    def _note_sealed(self, written: WrittenFile) -> None:
        make_directory(self.directory / SEALS)
        seal = FileSeal(kind=self.kind, key=self.key, **as_entry(written).model_dump())
        write_whole(self.directory / SEALS / f"{written.name}.json", seal.model_dump_json().encode())

    def adopt(self, other: Path, may_move: bool) -> None:
        """Take over what was sealed in another staging of the same set. Where the file system has no hard links, files
        are moved if `may_move`, which says that their writer is dead."""
        with writing_to(self.directory.parent):
            for name, file in sealed_files(other, self.kind, self.key).items():
                if name not in self.adopted and is_as_sealed(other / WEIGHTS / name, file):
                    self._adopt_file(other / WEIGHTS / name, file, may_move)
            for path in sorted((other / SEALS).glob(f"*{NOTE}")):
                with suppress(FileNotFoundError):
                    name = path.name.removesuffix(NOTE)
                    self.notes.setdefault(name, path.read_bytes())
                    self.note(name, self.notes[name])

    def _adopt_file(self, path: Path, file: WrittenFile, may_move: bool) -> None:
        weights = self.directory / WEIGHTS
        make_directory(weights)
        self._note_sealed(file)  # first: a seal without its file is ignored, a moved file without its seal is lost
        try:
            try:
                os.link(path, weights / file.name)
            except FileNotFoundError:
                return
            except OSError:
                if not may_move:
                    return
                path.rename(weights / file.name)
        except FileNotFoundError:
            return
        sync(weights)
        self.adopted[file.name] = file
        self.record([file], under=WEIGHTS)

    def drop_adopted(self) -> None:
        """Remove the adopted files, for a writer that writes all files itself: they may be hard links to others'
        files."""
        for name in self.adopted:
            (self.directory / WEIGHTS / name).unlink(missing_ok=True)
            self._known.pop(f"{WEIGHTS}/{name}", None)
        remove_tree(self.directory / SEALS)
        self.adopted, self.notes = {}, {}

    def seal(self, manifest_extra: Mapping[str, object] | None = None) -> SealedSet:
        """Sync everything to the disk, write the manifest last, and give the set its name. `manifest_extra` may hold
        `inputs`, `source_fingerprint` and other fields. Returns the set that has the key now, perhaps another
        writer's."""
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
            self._sync_everything()
            write_whole(self.directory / MANIFEST, manifest.encoded())
            remove_tree(self.directory / SEALS)  # from here on the manifest lists what was sealed
            sync(self.directory)
            sealed = self._publish(self, manifest)
            self._is_sealed = True
            return sealed

    def _names(self) -> list[str]:
        files = (path for path in self.directory.rglob("*") if path.is_file())
        names = sorted(path.relative_to(self.directory).as_posix() for path in files)
        return [name for name in names if not name.startswith(f"{SEALS}/")]

    def _entry(self, name: str) -> FileEntry:
        path, known = self.directory / name, self._known.get(name)
        nbytes = path.stat().st_size
        header = header_digest(path) if name.endswith(SAFETENSORS) else None
        if known and known.nbytes == nbytes:
            return FileEntry(
                nbytes=nbytes, digest=known.digest, algorithm=known.algorithm, header=known.header or header
            )
        return FileEntry(nbytes=nbytes, digest=whole_digest(path), algorithm="xxh3-128", header=header)

    def _sync_everything(self) -> None:
        for path in [*sorted(self.directory.rglob("*"), reverse=True), self.directory]:
            open_to_group(path)
            sync(path)

    def close(self, keep_sealed: bool = True) -> None:
        """Remove what is not sealed; without `keep_sealed`, everything."""
        try:
            needed = keep_sealed and not self._is_sealed
            if not (needed and keep_only_sealed(self.directory, self.kind, self.key)):
                remove_staging(self.directory)
        finally:
            self._lock.release()


def lock_path(directory: Path) -> Path:
    return directory.with_name(directory.name + LOCK_SUFFIX)


def sealed_files(directory: Path, kind: ArtifactKind, key: str) -> dict[str, WrittenFile]:
    """The sealed files in a staging of that set, by name: by their seals, or by the manifest, which is written before
    the seals are removed."""
    return dict(_from_manifest(directory, kind, key)) or dict(_from_seals(directory, kind, key))


def _from_manifest(directory: Path, kind: ArtifactKind, key: str) -> Iterator[tuple[str, WrittenFile]]:
    try:
        manifest = read_manifest(directory)
    except (OSError, ArtifactDamaged, ArtifactsTooNew):
        return
    if (manifest.kind, manifest.key) == (kind, key):
        yield from manifest.written(WEIGHTS).items()


def _from_seals(directory: Path, kind: ArtifactKind, key: str) -> Iterator[tuple[str, WrittenFile]]:
    for path in matching(directory / SEALS, "*.json"):
        with suppress(OSError, ValidationError):
            seal = FileSeal.model_validate_json(path.read_bytes())
            if (seal.kind, seal.key) == (kind, key):
                name = path.name.removesuffix(".json")
                yield name, as_written(name, seal)


def is_as_sealed(path: Path, file: WrittenFile) -> bool:
    """Whether the file exists with the size and the header that it was sealed with."""
    try:
        if path.is_symlink() or path.stat().st_size != file.nbytes:
            return False
        return not file.header or header_digest(path) == file.header
    except OSError:
        return False


def keep_only_sealed(directory: Path, kind: ArtifactKind, key: str) -> bool:
    """Remove what nobody can adopt. Returns False where nothing is left."""
    sealed = sealed_files(directory, kind, key)
    kept = {name for name, file in sealed.items() if is_as_sealed(directory / WEIGHTS / name, file)}
    if not kept:
        return False
    for path in directory.rglob("*"):
        if path.parent == directory / WEIGHTS and path.name in kept:
            continue
        if path.parent == directory / SEALS or path == directory / MANIFEST or path.is_dir():
            continue
        with suppress(OSError):
            path.unlink()
    return True


def stagings(root: Path, prefix: str = "") -> list[Path]:
    """The directories of all writers, dead or alive."""
    try:
        found = sorted(path for path in root.iterdir() if path.name.startswith(prefix) and path.is_dir())
        return [path for path in found if is_of_key(path.name)]
    except FileNotFoundError:
        return []


def remove_leftovers(root: Path, timings: LeaseTimings, has_set: Callable[[ArtifactKind, str], bool]) -> None:
    """Remove what dead writers have left and nobody can adopt; the staging of a living writer is locked. Of a set that
    exists (`has_set`) nothing needs to be adopted."""
    for directory in stagings(root):
        with writer_is_dead(lock_path(directory), timings) as dead:
            if dead:
                _clear(directory, has_set)
    for lock in sorted(root.glob(f"*{LOCK_SUFFIX}")):
        if is_of_key(lock.name) and not lock.with_name(lock.name.removesuffix(LOCK_SUFFIX)).exists():
            with writer_is_dead(lock, timings) as dead:
                if dead:
                    lock.unlink(missing_ok=True)


def _clear(directory: Path, has_set: Callable[[ArtifactKind, str], bool]) -> None:
    kind, key = set_of(directory)
    if not kind or has_set(kind, key) or not keep_only_sealed(directory, kind, key):
        remove_staging(directory)


def remove_staging(directory: Path) -> None:
    """Remove a staging whose writer is dead, or this process."""
    remove_tree(directory)
    if not directory.exists():
        with suppress(OSError):
            lock_path(directory).unlink(missing_ok=True)


def set_of(directory: Path) -> tuple[ArtifactKind | None, str]:
    """The kind and the key of a staging or a quarantined set, by its name."""
    kind, _, rest = directory.name.partition("-")
    key = rest.partition("-")[0]
    if kind == "compiled":
        return "compiled", key
    return ("shards", key) if kind == "shards" else (None, key)
