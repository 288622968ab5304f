"""A source on a network at one state of it: listed once, read by ranges, never changed.

Another kind of network source is a subclass: it lists files, names their versions, and reads one range.
"""

import logging
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from neuronmodel_worker.failures import SourceChanged, SourceUnreadable
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.interface import ContentStat, Resolution, SourceFile
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES
from neuronmodel_worker.sources.remote.listed_file import ListedFile
from neuronmodel_worker.sources.remote.remote_file import RemoteFile
from neuronmodel_worker.sources.remote.retries import FIRST_ATTEMPTS, RetryBudget
from neuronmodel_worker.sources.remote.shared_property import shared_property
from neuronmodel_worker.sources.remote.snapshot import FILES, KeptSnapshot, Snapshots, is_content_of, is_small

log = logging.getLogger(__name__)

HEAD_BYTES: Final = 256 << 10
"""What is asked for first of a file that is read in order: most headers are shorter."""
WEIGHTS: Final = ".safetensors"
LENGTH_BYTES: Final = 8
"""Of the header's length, at the beginning of a safetensors file."""


class RemoteSource(ABC):
    """A WeightSource."""

    is_local = False
    is_in_memory = False

    def __init__(
        self,
        name: str,
        resolution: Resolution,
        budget: RetryBudget,
        parallel_reads: int,
        snapshots: Snapshots | None = None,
    ) -> None:
        """Lists the files, from a snapshot where there is one; `name` is how messages name the source. Raises what is
        in `remote.refusals`."""
        self.directory = Path(name)
        self.resolution = resolution
        self.budget = budget
        self.parallel_reads = parallel_reads
        self.buffer_bytes = 2 * parallel_reads * PART_BYTES
        self.in_use: frozenset[str] = frozenset()
        """Revisions whose snapshots are kept however long nobody has opened them."""
        self._snapshots = snapshots
        self._snapshot = snapshots.read(resolution.revision) if snapshots else None
        self.files = {file.name: file for file in (self._snapshot.files if self._snapshot else self._list())}
        self._heads: dict[str, Array] = {}
        self._headers: set[str] = set()
        """The files of weights whose headers were read."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(parallel_reads)
        """Whatever asks for ranges, no more than `buffer_bytes` is for are read at a time."""

    # What kinds of sources differ in.

    @property
    def warnings(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def _list(self) -> Iterable[ListedFile]:
        """Asks for the files. Raises what is in `remote.refusals`."""

    @abstractmethod
    def version(self, file: ListedFile) -> str:
        """The digest of a file's content; of a server that lists none, what names this state of the file."""

    @abstractmethod
    def _attempt(self, file: ListedFile, position: int, nbytes: int) -> Array:
        """Reads a range of at least one byte, once. Raises Retry, SourceChanged and what is in `remote.refusals`."""

    def _small_content(self, file: ListedFile) -> bytes | None:
        """The content of a file that is not delivered in ranges, whole; None for any other. Raises as `_attempt`."""
        return None

    # Names.

    def require(self) -> None:  # noqa: B027 - listing has shown it
        """Is there, as its files were listed."""

    def names(self, most: int) -> frozenset[str]:
        return frozenset(sorted(self.files)[:most])

    def path(self, name: str) -> Path:
        return self.directory / name

    def exists(self, name: str) -> bool:
        return name in self.files

    def is_file(self, name: str) -> bool:
        return name in self.files

    def refuse_broken_link(self, name: str) -> None:  # noqa: B027 - there are no links
        """There are no links that lead nowhere."""

    # Reading in order.

    def read_ahead(self, names: Iterable[str]) -> None:
        wanted = [self.files[name] for name in names if name in self.files]
        with ThreadPoolExecutor(self.parallel_reads, thread_name_prefix="header") as pool:
            reads = [pool.submit(self.head, file) for file in wanted]
            try:
                for read in as_completed(reads):
                    read.result()
            except BaseException:
                self.budget.interrupt()  # the others may wait for minutes
                pool.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def stream(self, name: str) -> Iterator["RemoteStream"]:
        if name not in self.files:
            raise FileNotFoundError(name)
        if name.endswith(WEIGHTS):
            with self._lock:
                self._headers.add(name)
        yield RemoteStream(self, self.files[name])

    def head(self, file: ListedFile) -> Array:
        """Returns the first bytes of a file, which are kept; small files may be whole."""
        with self._lock:
            if (head := self._heads.get(file.name)) is not None:
                return head
        content = self._kept(file)
        if content is None:
            content = self._checked(file, self._small_content)
        if content is None:
            head = self.read_range(file, 0, min(HEAD_BYTES, file.nbytes))
        else:
            head = np.frombuffer(content, np.uint8)
        with self._lock:
            return self._heads.setdefault(file.name, head)

    def _kept(self, file: ListedFile) -> bytes | None:
        if self._snapshot is None:
            return None
        return self._snapshot.header(file) if file.name.endswith(WEIGHTS) else self._snapshot.content(file)

    def _checked(self, file: ListedFile, read: Callable[[ListedFile], bytes | None]) -> bytes | None:
        """Reads a whole file, if `read` does, and compares it with the digest that is listed."""
        for _ in range(FIRST_ATTEMPTS):
            content = read(file)
            if content is None or is_content_of(file, content):
                return content
        raise SourceChanged(self.path(file.name), "the server lists another content than it delivers")

    def _whole(self, file: ListedFile) -> bytes:
        parts = [(at, min(PART_BYTES, file.nbytes - at)) for at in range(0, file.nbytes, PART_BYTES)]
        return b"".join(self.read_range(file, *part).tobytes() for part in parts)

    # Reading ranges.

    def open(self, file: SourceFile) -> RemoteFile:
        entry = self._entry(file)
        return RemoteFile(
            lambda position, nbytes: self._read_range_or_head(entry, position, nbytes),
            self._fetch_pool,
            self.budget.interrupt,
        )

    def stat(self, file: SourceFile) -> ContentStat:
        entry = self._entry(file)
        return ContentStat(nbytes=entry.nbytes, digest=self.version(entry))

    def _entry(self, file: SourceFile) -> ListedFile:
        entry = self.files.get(file.path.name)
        if entry is None or entry.nbytes != file.nbytes:
            raise SourceChanged(file.path, "the source has no such file at this revision")
        return entry

    @shared_property
    def _fetch_pool(self) -> ThreadPoolExecutor:
        """For columns: half of the reads are theirs, as the other half reads ahead."""
        return ThreadPoolExecutor(max(1, self.parallel_reads // 2), thread_name_prefix="fetch")

    def _read_range_or_head(self, file: ListedFile, position: int, nbytes: int) -> Array:
        """Reads a range; where the file's first bytes that were read already have it, from them."""
        head = self._heads.get(file.name)
        if head is not None and position + nbytes <= head.nbytes:
            return head[position : position + nbytes]
        return self.read_range(file, position, nbytes)

    def read_range(self, file: ListedFile, position: int, nbytes: int) -> Array:
        """Reads a range, which is within the file. Raises SourceChanged and what is in `remote.refusals`."""
        if not nbytes:
            return np.empty(0, np.uint8)
        return self.budget.run(lambda: self._attempt(file, position, nbytes), "ranges")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """For the time in which a range is read: few enough are at a time, and it is counted."""
        with self._slots, self.budget.traffic.reading.counted():
            yield

    # A folder for what reads only directories.

    def folder(self) -> Path:
        """Returns a folder with the small files, and keeps it, with the headers that were read, for later starts: on
        the volume of snapshots, or for this process alone where there is none. Raises what is in `remote.refusals`,
        SourceChanged, and SourceUnreadable where it cannot be written."""
        with self._lock:
            snapshot = self._snapshot
        if snapshot is None or not snapshot.is_whole or not self._headers <= snapshot.headers.keys():
            snapshot = self._keep()
            with self._lock:
                self._snapshot = snapshot
        return snapshot.directory / FILES

    def _keep(self) -> KeptSnapshot:
        small = [name for name, file in self.files.items() if is_small(file)]
        self.read_ahead(small)
        contents = {name: self._content(self.files[name]) for name in small}
        headers = {name: self._header(name) for name in sorted(self._headers)}
        files, revision = self.files.values(), self.resolution.revision
        if self._snapshots:
            try:
                return self._snapshots.write(revision, files, contents, headers, self.in_use)
            except OSError as error:
                log.warning("Nothing is kept of %s for later starts: %s", self.directory, error)
        try:
            elsewhere = Snapshots(Path(tempfile.mkdtemp(prefix="neuronmodel-snapshot-")), str(self.directory))
            return elsewhere.write(revision, files, contents, headers)
        except OSError as error:
            raise SourceUnreadable(self.directory, error) from error

    def _content(self, file: ListedFile) -> bytes:
        head = self.head(file)
        return head.tobytes() if head.nbytes == file.nbytes else self._checked(file, self._whole) or b""

    def _header(self, name: str) -> bytes:
        """A file's bytes up to its tensors."""
        stream = RemoteStream(self, self.files[name])
        prefix = stream.read(LENGTH_BYTES)
        return prefix + stream.read(int.from_bytes(prefix, "little"))


class RemoteStream:
    """A Stream, which reads the file's first bytes at once and more as they are asked for."""

    mtime_ns = 0

    def __init__(self, source: RemoteSource, file: ListedFile) -> None:
        self._source = source
        self._file = file
        self._position = 0
        self.nbytes = file.nbytes
        self.content_digest = source.version(file)

    def read(self, nbytes: int) -> bytes:
        end = min(self._position + nbytes, self.nbytes)
        found = bytearray()
        head = self._source.head(self._file)
        if self._position < head.nbytes:
            found += head[self._position : end].tobytes()
        while (at := self._position + len(found)) < end:
            found += self._source.read_range(self._file, at, min(PART_BYTES, end - at)).tobytes()
        self._position = end
        return bytes(found)

    def rewind(self) -> None:
        self._position = 0
