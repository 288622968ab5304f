"""Copies of the source's safetensors files on the scratch volume, by fingerprint, for starts that shard while they
load.

A copy is used only after the source itself has been opened: its headers and times say whether it is unchanged. Another
checkpoint with the same headers and modification times, as archives unpack them, has other change times. `copy.json`
has the digests of the copy's tensors, in the pieces in which they were read when the copy was made. Where the source
lists digests of whole files, `verify_copy` compares them, as nobody else does; `verified.json` says that it has.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource, read_source_header
from neuronmodel_worker.failures import SourceChanged, SourceUnreadable, WorkerFailure
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import sync
from neuronmodel_worker.scratch_cache.copying import CopyWriter, ReadOriginal
from neuronmodel_worker.scratch_cache.errors import (
    OriginalChanged,
    OriginalUnreadable,
    TierDamaged,
    TierStale,
    TierUnlike,
    TierUnwritable,
    writing_copy,
)
from neuronmodel_worker.scratch_cache.volume import SOURCE_COPY, PendingCopy, Tier
from neuronmodel_worker.sources import FileStat, Folder, SourceFile, WeightSource
from neuronmodel_worker.sources.listed_digests import ListedDigest, is_as_listed
from neuronmodel_worker.store.source_records import file_stats
from neuronmodel_worker.stream import ContentDigests, check_content
from neuronmodel_worker.stream.content_digests import PieceDigest

RECORD: Final = "copy.json"
VERIFIED: Final = "verified.json"
FORMAT: Final = 1


class Record(BaseModel):
    """The content of copy.json. `pieces` are the digests by tensor; `changed` is the change time of each source file
    before it was copied, by file name and in nanoseconds."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    fingerprint: str
    changed: dict[str, int]
    pieces: dict[str, list[PieceDigest]]


@dataclass(frozen=True)
class CopiedSource:
    """The same checkpoint, with its tensors' bytes on the scratch volume."""

    checkpoint: Checkpoint
    record: Record

    def first_difference(self, found: dict[str, list[PieceDigest]]) -> str | None:
        """Returns a sentence on the first tensor that differs from what was copied; `found` are digests taken while it
        was read.

        Tensors that were read in other pieces are read again. Raises SourceUnreadable and SourceChanged.
        """
        unlike = [name for name, pieces in found.items() if self.record.pieces.get(name) != pieces]
        return check_content(self.checkpoint, self.record.pieces, unlike) if unlike else None


def copied_source(tier: Tier, checkpoint: Checkpoint) -> CopiedSource | None:
    """Returns the copy of a checkpoint that has just been opened, if there is one of its fingerprint.

    Raises TierError, SourceChanged and SourceUnreadable; an unusable copy is removed first.
    """
    key = checkpoint.fingerprint
    directory = tier.use(SOURCE_COPY, key)
    if directory is None:
        return None
    try:
        record = Record.model_validate_json((directory / RECORD).read_bytes())
        copied = _opened(directory, checkpoint)
    except (OSError, ValidationError, WorkerFailure) as error:
        tier.drop(SOURCE_COPY, key)
        raise TierDamaged(directory, str(error).partition("\n")[0].removesuffix(".")) from error
    if record.format > FORMAT or {record.fingerprint, copied.fingerprint} != {key}:
        tier.drop(SOURCE_COPY, key)
        raise TierDamaged(directory, "its files are not those that were copied")
    if record.changed != changed(checkpoint):
        tier.drop(SOURCE_COPY, key)
        raise TierStale(directory, "the checkpoint's files were written or replaced since they were copied")
    return CopiedSource(copied, record)


class Verified(BaseModel):
    """The content of verified.json: size, modification time and digest of each file that was compared."""

    model_config = ConfigDict(frozen=True)

    files: dict[str, tuple[int, int, str]]


def lists_digests(checkpoint: Checkpoint) -> bool:
    """Whether the source lists a digest of a file, so that there is something to compare a copy with."""
    return any(ListedDigest.of(file) for file in checkpoint.files)


def verify_copy(tier: Tier, checkpoint: Checkpoint, wait: Callable[[], None]) -> None:
    """Compares every byte of a checkpoint's copy with the digests that its source lists, unless that was done before.
    It calls `wait` before each piece.

    Raises TierUnlike for a copy that is not like that, which is removed first; TierError, and what `wait` raises.
    """
    key = checkpoint.fingerprint
    directory = tier.use(SOURCE_COPY, key)
    if directory is None or not lists_digests(checkpoint):
        return
    with writing_copy(directory):
        now = _states(directory, checkpoint)
        if now is None or _verified(directory) == now:
            return
        for file in checkpoint.files:
            if not _is_as_listed(directory / file.path.name, file, wait):
                tier.drop(SOURCE_COPY, key)
                raise TierUnlike(directory, file.path.name)
        unfinished = directory / f".{VERIFIED}"
        unfinished.write_text(now.model_dump_json())
        unfinished.rename(directory / VERIFIED)


def _states(directory: Path, checkpoint: Checkpoint) -> Verified | None:
    """None where another worker has removed the copy."""
    try:
        stats = {file.path.name: (directory / file.path.name).stat() for file in checkpoint.files}
    except FileNotFoundError:
        return None
    digests = {file.path.name: file.content_digest for file in checkpoint.files}
    return Verified(files={name: (stat.st_size, stat.st_mtime_ns, digests[name]) for name, stat in stats.items()})


def _verified(directory: Path) -> Verified | None:
    try:
        return Verified.model_validate_json((directory / VERIFIED).read_bytes())
    except (OSError, ValidationError):
        return None


def _is_as_listed(path: Path, file: SourceFile, wait: Callable[[], None]) -> bool:
    """A file that cannot be read is none of use."""
    try:
        return is_as_listed(path, file, wait)
    except OSError:
        return False


def changed(checkpoint: Checkpoint) -> dict[str, int]:
    """Returns when each file was last changed, in nanoseconds; nothing for files whose content is in the fingerprint.
    Raises SourceChanged and SourceUnreadable."""
    return {name: stat.ctime_ns for name, stat in file_stats(checkpoint).items() if isinstance(stat, FileStat)}


def _opened(directory: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Opens the headers of the copied files as the checkpoint's tensors. Raises OSError, and a BadInput."""
    folder = Folder(directory)
    headers = {file.path.name: _read_header(folder, file) for file in checkpoint.files}

    def moved(source: TensorSource) -> TensorSource:
        file, tensors = headers[source.file.path.name]
        return replace(tensors.get(source.name, source), file=file)

    return Checkpoint(
        folder,
        checkpoint.config,
        MappingProxyType({name: moved(source) for name, source in checkpoint.tensors.items()}),
        tuple(file for file, _ in headers.values()),
    )


def _read_header(folder: Folder, original: SourceFile) -> tuple[SourceFile, dict[str, TensorSource]]:
    """The header of a copied file, which has the original's content."""
    file, tensors = read_source_header(folder, original.path.name)
    return replace(file, content_digest=original.content_digest), tensors


@dataclass(frozen=True)
class SourceOriginal:
    """A file of a source as an Original to copy."""

    source: WeightSource
    file: SourceFile

    @property
    def nbytes(self) -> int:
        return self.file.nbytes

    @contextmanager
    def opened(self) -> Iterator[ReadOriginal]:
        with self._translated():
            opened = self.source.open(self.file)

        def read(position: int, nbytes: int, buffer: Array) -> Array:
            with self._translated():
                return opened.read(position, nbytes, buffer)

        try:
            yield read
        finally:
            opened.close()

    def check_unchanged(self) -> None:
        with self._translated():
            self.source.stat(self.file)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (SourceChanged, SourceUnreadable) as failure:
            raise OriginalChanged(self.file.path, failure.what) from failure
        except WorkerFailure as failure:  # of a network
            raise OriginalUnreadable(str(failure)) from failure


class SourceCopy:
    """An observer of `run` that copies a checkpoint's files while their tensors are read."""

    def __init__(self, writing: PendingCopy, checkpoint: Checkpoint, digests: ContentDigests) -> None:
        """Raises TierError."""
        self._writing = writing
        self._checkpoint = checkpoint
        self._digests = digests
        self._changed = changed(checkpoint)
        originals = {file.path.name: SourceOriginal(checkpoint.source, file) for file in checkpoint.files}
        self._copy = CopyWriter(writing.directory, originals)

    @classmethod
    def begin(cls, tier: Tier, checkpoint: Checkpoint, digests: ContentDigests) -> "SourceCopy | None":
        """Begins a copy, or returns None if another worker is making it. `digests` sees the same bytes. Raises
        TierError."""
        nbytes = sum(file.nbytes for file in checkpoint.files)
        writing = tier.begin(SOURCE_COPY, checkpoint.fingerprint, nbytes)
        if writing is None:
            return None
        try:
            return cls(writing, checkpoint, digests)
        except BaseException:
            writing.abandon()
            raise

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        self._copy.observe(source.file.path.name, source.offset + start, data)

    def finish(self, wait: Callable[[], None]) -> None:
        """Copies headers and what was not seen, sets the times, and publishes the copy under its name.

        Raises TierError and what `wait` raises; the copy is removed then.
        """
        directory = self._writing.directory
        try:
            self._copy.complete(directory, wait)
            with writing_copy(directory):
                self._give_times(directory)
                record = Record(
                    fingerprint=self._checkpoint.fingerprint, changed=self._changed, pieces=self._digests.pieces()
                )
                (directory / RECORD).write_text(record.model_dump_json())
            self._writing.publish()
        except BaseException:
            self._writing.abandon()
            raise

    def _give_times(self, directory: Path) -> None:
        """Sets the source's modification times where they are part of its fingerprint."""
        for file in self._checkpoint.files:
            path = directory / file.path.name
            sync(path)
            if file.content_digest:
                continue
            os.utime(path, ns=(file.mtime_ns, file.mtime_ns))
            if path.stat().st_mtime_ns != file.mtime_ns:
                raise TierUnwritable(path, OSError(0, "its file system does not keep times as exactly as the source's"))

    def abandon(self) -> None:
        self._copy.abort()
        self._writing.abandon()
