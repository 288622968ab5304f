"""The folder that `shard` writes into: one writer at a time, one set of shards, and a manifest that is written last.

    DIR/manifest.json                                  what the set is, every file with its size and digest
    DIR/weights/tp{rank}_sharded_checkpoint.safetensors

A manifest always describes the files next to it: it is removed before the first file of another set gets its name, and
written when every file of this set has its name.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuronmodel_worker.commands.usage_errors import FolderInUse, FolderRefused
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsUnreadable
from neuronmodel_worker.io.disk import UNFINISHED, WrittenFile, sync, temporary_path, writing_to
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.store import SHARDS, shards_inputs, shards_key
from neuronmodel_worker.store.manifest import MANIFEST, FileEntry, Manifest, read_manifest
from neuronmodel_worker.stream import WEIGHTS, rank_file_name

RANK_FILE = re.compile(r"tp(0|[1-9][0-9]*)_sharded_checkpoint\.safetensors")
# The two inputs of a key that say which ranks there are, and do not affect any rank's bytes.
RANK_INPUTS = ("start_rank", "local_ranks")
WITHOUT_LOCKS = (errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOSYS)


def rank_files(weights: Path) -> dict[int, Path]:
    """Returns every path in the folder that has a rank file's name, by rank."""
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in weights.iterdir():
            if match := RANK_FILE.fullmatch(path.name):
                found[int(match[1])] = path
    return dict(sorted(found.items()))


def nearest_existing(path: Path) -> Path:
    """Returns the path itself, or the first folder above it that exists."""
    return next(each for each in (path, *path.parents, Path("/")) if os.path.lexists(each))


def check_place(output: Path, model: Path) -> None:
    """Raises FolderRefused for an output that is not a folder, or that lies within the checkpoint."""
    existing, weights = nearest_existing(output), output / WEIGHTS
    if not existing.is_dir():
        raise FolderRefused(
            f"{existing} is no folder, and the shards are to be written to {output}. Name another folder."
        )
    if os.path.lexists(weights) and not weights.is_dir():
        raise FolderRefused(f"{weights} is no folder, and the shards are to be written there. Move it away.")
    source = Path(os.path.realpath(model))
    for place in (output, weights):
        if Path(os.path.realpath(place)).is_relative_to(source):
            raise FolderRefused(
                f"{place} lies within the checkpoint's folder {model}, in which nothing is written. "
                "Name another folder."
            )


@dataclass
class OutputFolder:
    """The folder of one run, which has it to itself within `claimed`."""

    directory: Path
    plan: StreamedPlan
    old: Manifest | None = None
    removed: list[str] = field(default_factory=list)
    """Names of removed files, which belonged to another set."""
    _prepared: Path | None = None
    """The new manifest under its temporary name."""
    _entries: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def weights(self) -> Path:
        return self.directory / WEIGHTS

    def begin(self) -> None:
        """Removes what dead runs left, and reads the manifest. Raises FolderRefused."""
        with writing_to(self.directory):
            # Only the holder of the folder's lock writes manifests, so these are left from dead runs.
            for path in self.directory.glob(f".{MANIFEST}.*{UNFINISHED}"):
                path.unlink(missing_ok=True)
        self.old = self._find_manifest()
        for rank in self.plan.ranks:
            if (path := self.weights / rank_file_name(rank)).is_dir():
                raise FolderRefused(f"{path} is a folder, and a file of that name is to be written. Move it away.")

    def _find_manifest(self) -> Manifest | None:
        try:
            found = read_manifest(self.directory)
        except FileNotFoundError:
            return None
        except (ArtifactDamaged, IsADirectoryError) as error:
            raise FolderRefused(
                f"{self.directory / MANIFEST} is no manifest of shards, and one is to be written there. "
                "Move it away, or name another folder."
            ) from error
        except OSError as error:
            raise ArtifactsUnreadable(self.directory, error) from error
        if found.kind != SHARDS:
            raise FolderRefused(f"{self.directory} holds a compiled model, not shards. Name another folder.")
        return found

    def prepare(self, files: Iterable[WrittenFile]) -> None:
        """Writes the new manifest under a temporary name and removes the old one, before any file gets its name. The
        old manifest stays if it is of the same set."""
        self._entries = {**self._kept(), **{f"{WEIGHTS}/{each.name}": _entry(each) for each in files}}
        manifest = self._manifest(self._entries)
        with writing_to(self.directory):
            self._prepared = temporary_path(self.directory / MANIFEST)
            _write(self._prepared, manifest.model_dump_json(indent=1).encode())
            if self.old and not (self._is_of_this_set(self.old) and self.old.tool_version == manifest.tool_version):
                (self.directory / MANIFEST).unlink(missing_ok=True)

    def seal(self) -> None:
        """Gives the manifest its name, when every file has its own."""
        with writing_to(self.directory):
            self._remove_others(self._entries)
            if self._prepared:
                self._prepared.replace(self.directory / MANIFEST)
            sync(self.directory)

    def end(self) -> None:
        """Removes the temporary manifest, if there still is one."""
        if self._prepared:
            with suppress(OSError):
                self._prepared.unlink(missing_ok=True)

    def _kept(self) -> dict[str, FileEntry]:
        """Returns the entries of other ranks of this set that an earlier run wrote and that still exist."""
        if not (self.old and self._is_of_this_set(self.old)):
            return {}
        known = {f"{WEIGHTS}/{path.name}": path for path in rank_files(self.weights).values()}
        return {n: entry for n, entry in self.old.files.items() if n in known and _size(known[n]) == entry.nbytes}

    def _is_of_this_set(self, manifest: Manifest) -> bool:
        return _without_ranks(manifest.inputs) == _without_ranks(self._inputs(self.plan.ranks))

    def _inputs(self, ranks: Iterable[int]) -> dict[str, Any]:
        """Returns what the key of these ranks is made from; the same as the store's if the ranks form one range."""
        named = sorted(ranks)
        layout = {name: value for name, value in self.plan.layout_inputs().items() if name not in RANK_INPUTS}
        if named[-1] - named[0] == len(named) - 1:
            layout |= dict(zip(RANK_INPUTS, (named[0], len(named)), strict=True))
        else:
            layout["ranks"] = named
        return shards_inputs(self.plan.checkpoint.fingerprint, layout)

    def _manifest(self, entries: Mapping[str, FileEntry]) -> Manifest:
        ranks = [int(match[1]) for name in entries if (match := RANK_FILE.fullmatch(Path(name).name))]
        inputs = self._inputs(ranks)
        return Manifest(
            kind=SHARDS,
            key=shards_key(inputs["source"], inputs["layout"]),
            created=datetime.now(UTC),
            source_fingerprint=self.plan.checkpoint.fingerprint,
            inputs=inputs,
            files=dict(sorted(entries.items(), key=lambda each: _rank_of(each[0]))),
        )

    def _remove_others(self, entries: Mapping[str, FileEntry]) -> None:
        for path in rank_files(self.weights).values():
            if f"{WEIGHTS}/{path.name}" not in entries and not path.is_dir():
                path.unlink()
                self.removed.append(path.name)


def rank_metadata(plan: StreamedPlan) -> dict[str, str]:
    """Returns the metadata in the header of every rank's file: which set it is of, whichever ranks were made
    together."""
    inputs = _without_ranks(shards_inputs(plan.checkpoint.fingerprint, plan.layout_inputs()))
    return {"set": shards_key(inputs["source"], inputs["layout"])}


def _without_ranks(inputs: Mapping[str, Any]) -> dict[str, Any]:
    layout = inputs.get("layout")
    named = layout if isinstance(layout, dict) else {}
    return {**inputs, "layout": {k: v for k, v in named.items() if k not in (*RANK_INPUTS, "ranks")}}


def _rank_of(name: str) -> int:
    match = RANK_FILE.fullmatch(Path(name).name)
    return int(match[1]) if match else -1


def _entry(file: WrittenFile) -> FileEntry:
    return FileEntry(nbytes=file.nbytes, digest=file.digest, algorithm=file.algorithm, header=file.header)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def claimed(directory: Path, plan: StreamedPlan) -> Iterator[OutputFolder]:
    """Creates the folder if it is missing, and locks it against other writers. Created folders that stay empty are
    removed again.

    Raises FolderRefused, FolderInUse, ArtifactsUnwritable or ArtifactsVolumeFull.
    """
    check_place(directory, plan.checkpoint.path)
    made: list[Path] = []
    lock = None
    try:
        while lock is None:
            _make(directory, made)
            lock = lock_folder(directory)
        if not os.path.lexists(directory / WEIGHTS):
            made.insert(0, directory / WEIGHTS)
        folder = OutputFolder(directory, plan)
        folder.begin()
        try:
            yield folder
        finally:
            folder.end()
    finally:
        for each in made:  # before the lock is released: its next holder finds the folder gone and creates it again
            with suppress(OSError):
                each.rmdir()
        if lock is not None:
            os.close(lock)


def _make(directory: Path, made: list[Path]) -> None:
    """Creates the folder and its missing parents, and inserts them in `made`, the innermost first."""
    top = nearest_existing(directory)
    with writing_to(top):
        for each in reversed([path for path in (directory, *directory.parents) if not os.path.lexists(path)]):
            each.mkdir(exist_ok=True)
            made.insert(0, each)


def lock_folder(directory: Path, exclusive: bool = True) -> int | None:
    """Returns a descriptor that holds the folder's lock until it is closed, or None if the folder has been removed.

    On a file system without locks on folders it continues without one. Raises FolderInUse.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactsUnreadable(directory, error) from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), directory.stat()):
            return descriptor
    except BlockingIOError as error:
        os.close(descriptor)
        raise FolderInUse(directory) from error
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return descriptor
        os.close(descriptor)
        raise ArtifactsUnreadable(directory, error) from error
    os.close(descriptor)
    return None
