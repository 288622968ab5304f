"""Folders with the whole files of a source on a network, on the scratch volume, for what reads only directories.

    <scratch>/tier/folder/<key>/              the files of weights and the small ones
    <scratch>/tier/writing/folder-<key>/      as far as they were fetched; a file gets its name when it is whole

The key is a digest of names, sizes and the digests that the source lists: every commit with the same files has the same
folder, and so have all workers on the volume. Unlike the copies beside it, a start cannot do without one.
"""

import hashlib
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.io.aligned import SLACK, Array, fresh
from neuronmodel_worker.io.disk import sync
from neuronmodel_worker.scratch_cache.copying import PIECE_BYTES, CopiedFile
from neuronmodel_worker.scratch_cache.errors import TierTooSmall, writing_copy
from neuronmodel_worker.scratch_cache.volume import FOLDER_COPY, PendingCopy, Tier
from neuronmodel_worker.sources import OpenFile, SourceFile, WeightSource
from neuronmodel_worker.sources.listed_digests import ListedDigest, is_as_listed
from neuronmodel_worker.stream.writeback import Writeback

UNFINISHED: Final = ".part"
ATTEMPTS: Final = 2
"""How often a file is fetched that arrives with another content than is listed."""
POLL_SECONDS: Final = 1.0

Progress = Callable[[int], None]
"""Is called with how many bytes are there."""


@dataclass(frozen=True)
class WholeFolder:
    """The folder of one checkpoint. `others` are names of files beside the weights' and the small ones, fetched where
    the source has them."""

    tier: Tier
    checkpoint: Checkpoint
    others: tuple[str, ...] = ()

    @cached_property
    def _large(self) -> tuple[SourceFile, ...]:
        source = self.checkpoint.source
        others = tuple(_listed(source, name) for name in self.others if source.is_file(name))
        return (*self.checkpoint.files, *others)

    @cached_property
    def _small(self) -> tuple[tuple[Path, SourceFile], ...]:
        """The small files, each with where it is kept."""
        large, source = {file.path.name for file in self._large}, self.checkpoint.source
        kept = sorted(path for path in source.folder().iterdir() if path.name not in large)
        return tuple((path, _listed(source, path.name)) for path in kept)

    @property
    def _files(self) -> tuple[SourceFile, ...]:
        return (*self._large, *(file for _, file in self._small))

    @cached_property
    def key(self) -> str:
        facts = sorted([file.path.name, file.nbytes, *file.version] for file in self._files)
        return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()[:32]

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self._files)

    def found(self, *, full: bool = False) -> Path | None:
        """Returns the folder if it is there, and marks it as in use. With `full` every byte of it is compared with what
        the source lists. One that is damaged is removed. Raises TierError."""
        directory = self.tier.use(FOLDER_COPY, self.key)
        if directory is None:
            return None
        with writing_copy(directory):
            if all(self._is_whole(directory, file, full=full) for file in self._files):
                return directory
        self.tier.drop(FOLDER_COPY, self.key)
        return None

    @staticmethod
    def _is_whole(directory: Path, file: SourceFile, *, full: bool = False) -> bool:
        path = directory / file.path.name
        try:
            return path.stat().st_size == file.nbytes and (not full or is_as_listed(path, file))
        except FileNotFoundError:
            return False

    def require_room(self) -> None:
        """Evicts copies that nobody uses, until what is missing has room. Raises TierError; it has both figures where
        the room is not enough."""
        if not self.tier.path(FOLDER_COPY, self.key).is_dir():
            self.tier.make_room(FOLDER_COPY, self.key, self._missing_bytes)

    @property
    def _missing_bytes(self) -> int:
        left = self.tier.leftover(FOLDER_COPY, self.key)
        return sum(file.nbytes for file in self._files if not self._is_whole(left, file))

    def fetch(self, progress: Progress, waiting: Callable[[], None], *, full: bool = False) -> Path:
        """Returns the folder, and fetches what is missing of it. While another worker does that, it calls `waiting` and
        waits. Raises TierError, SourceChanged, and what reading the source raises; whole files stay for the next
        attempt."""
        while True:
            if (directory := self.found(full=full)) is not None:
                return directory
            try:
                writing = self.tier.begin(FOLDER_COPY, self.key, self._missing_bytes, resumes=True)
            except TierTooSmall:
                if (directory := self.found(full=full)) is None:
                    raise
                return directory  # another worker has made it meanwhile
            if writing:
                return self._fill(writing, progress)
            waiting()
            time.sleep(POLL_SECONDS)

    def _fill(self, writing: PendingCopy, progress: Progress) -> Path:
        directory = writing.directory
        try:
            if (found := self.found()) is not None:  # another worker has made it meanwhile
                writing.abandon()
                return found
            with writing_copy(directory):
                for left in directory.glob(f"*{UNFINISHED}"):
                    left.unlink()
                missing = [file for file in self._large if not self._is_whole(directory, file)]
                for path, file in self._small:
                    self._copy_small(path, directory / file.path.name)
                _Fetch(self.checkpoint.source, directory, self.nbytes, progress).run(missing)
            writing.publish()
        except BaseException:
            writing.leave()
            raise
        return self.tier.path(FOLDER_COPY, self.key)

    @staticmethod
    def _copy_small(path: Path, into: Path) -> None:
        unfinished = into.with_name(into.name + UNFINISHED)
        shutil.copyfile(path, unfinished)
        sync(unfinished)
        unfinished.rename(into)


def _listed(source: WeightSource, name: str) -> SourceFile:
    with source.stream(name) as stream:
        return SourceFile(source.path(name), stream.nbytes, stream.mtime_ns, "", stream.content_digest)


class _Fetch:
    """Fetches files one after the other, with many ranges under way, into `directory`. The ranges of a file are written
    in order, so that its digest is taken on the way."""

    def __init__(self, source: WeightSource, directory: Path, nbytes: int, progress: Progress) -> None:
        self._source = source
        self._directory = directory
        self._nbytes = nbytes
        self._progress = progress
        self._done = 0

    def run(self, files: list[SourceFile]) -> None:
        """Raises OSError, SourceChanged, and what reading the source raises."""
        self._done = self._nbytes - sum(file.nbytes for file in files)
        self._progress(self._done)
        for file in files:
            for attempt in range(ATTEMPTS):
                if self._fetch(file):
                    break
                if attempt + 1 == ATTEMPTS:
                    raise SourceChanged(file.path, "the server lists another content than it delivers")
                self._done -= file.nbytes
                self._progress(self._done)

    def _fetch(self, file: SourceFile) -> bool:
        """Returns whether the file arrived as it is listed; it has its name then."""
        digest, unfinished = ListedDigest.of(file), self._directory / f"{file.path.name}{UNFINISHED}"
        writes = CopiedFile(unfinished, file.nbytes, Writeback())
        try:
            with self._ranges(file) as ranges:
                for position, data in ranges:
                    if digest:
                        digest.update(data.data)
                    writes.write(position, data)
                    self._done += data.nbytes
                    self._progress(self._done)
        except BaseException:
            writes.close()
            with suppress(OSError):
                unfinished.unlink()
            raise
        writes.close()
        if digest and not digest.matches:
            unfinished.unlink()
            return False
        sync(unfinished)
        unfinished.rename(self._directory / file.path.name)
        sync(self._directory)
        return True

    @contextmanager
    def _ranges(self, file: SourceFile) -> Iterator[Iterator[tuple[int, Array]]]:
        """The ranges of a file in order, read ahead of the one that is taken."""
        opened = self._source.open(file)
        pool = ThreadPoolExecutor(self._source.parallel_reads, thread_name_prefix="whole")
        try:
            yield _in_order(opened, file.nbytes, pool, self._source.parallel_reads)
        except BaseException:
            opened.interrupt()  # others may wait for minutes
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            opened.close()


def _in_order(opened: OpenFile, nbytes: int, pool: ThreadPoolExecutor, ahead: int) -> Iterator[tuple[int, Array]]:
    under_way: deque[tuple[int, Future[Array]]] = deque()
    positions = iter(range(0, nbytes, PIECE_BYTES))

    def submit() -> None:
        if (position := next(positions, None)) is not None:
            length = min(PIECE_BYTES, nbytes - position)
            under_way.append((position, pool.submit(opened.read, position, length, fresh(length + SLACK))))

    for _ in range(ahead):
        submit()
    while under_way:
        position, read = under_way.popleft()
        yield position, read.result()
        submit()
