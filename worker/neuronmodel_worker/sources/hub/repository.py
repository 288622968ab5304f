"""A repository at one commit, as a source of weights: listed once, read by ranges, never changed."""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from neuronmodel_worker.failures import SourceChanged, SourceUnreadable
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubClient, HubFile, HubServer
from neuronmodel_worker.sources.hub.signed_urls import SignedUrls
from neuronmodel_worker.sources.hub.snapshot import FILES, KeptCommit, Snapshots, is_content_of, is_small
from neuronmodel_worker.sources.interface import ContentStat, Resolution, SourceFile
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES, Location, RangeReader, RangeRefused
from neuronmodel_worker.sources.remote.redaction import host_of
from neuronmodel_worker.sources.remote.refusals import SourceForbidden, SourceRateLimited, SourceUnreachable
from neuronmodel_worker.sources.remote.remote_file import RemoteFile
from neuronmodel_worker.sources.remote.retries import FIRST_ATTEMPTS, Retry
from neuronmodel_worker.sources.remote.traffic import Traffic

log = logging.getLogger(__name__)

PARALLEL_READS: Final = 16
"""Ranges in flight. The Hub's delivery brings 20 to 90 MB/s a connection."""
FETCH_THREADS: Final = 8
HEAD_BYTES: Final = 256 << 10
"""What is asked for first of a file that is read in order: most headers are shorter."""
SMALL_BYTES: Final = 16 << 20
"""Files of git's own up to this size are read whole, and compared with git's digest."""
WEIGHTS: Final = ".safetensors"
LENGTH_BYTES: Final = 8
"""Of the header's length, at the beginning of a safetensors file."""
SHOWN_OF_COMMIT: Final = 12


def open_repository(
    address: HubAddress, server: HubServer, kept: Path | None = None, watch: Callable[[Traffic], None] = lambda _: None
) -> "HubRepository":
    """Finds the commit that the revision is at, and its files. Raises what is in `remote.refusals`.

    In the folder `kept` are snapshots of what was read before: a commit that has one is opened without a request, and
    where the server cannot be reached, a revision is the commit that it was at when it was last asked for. `watch` is
    called with the counters before the first request.
    """
    client, snapshots = HubClient(server, address.repository), Snapshots.of(kept, address.repository)
    watch(client.budget.traffic)
    found = Resolution(address.revision, datetime.now(UTC))
    if not address.is_commit:
        found = _resolve_revision(client, address.revision, snapshots)
    return HubRepository(client, found.revision, snapshots, found)


def _resolve_revision(client: HubClient, revision: str, snapshots: Snapshots | None) -> Resolution:
    try:
        commit = client.commit(revision)
    except (SourceUnreachable, SourceRateLimited) as failure:
        if not snapshots or not (noted := snapshots.noted_revision(revision)):
            raise
        log.warning("%s Revision %s is taken for the commit that it was at before, %s.", failure, revision, noted[0])
        return Resolution(*noted, failure)
    now = datetime.now(UTC)
    if snapshots:
        snapshots.note_revision(revision, commit, now)
    return Resolution(commit, now)


class HubRepository:
    """A WeightSource."""

    is_local = False
    parallel_reads = PARALLEL_READS
    buffer_bytes = 2 * PARALLEL_READS * PART_BYTES

    def __init__(
        self,
        client: HubClient,
        commit: str,
        snapshots: Snapshots | None = None,
        resolution: Resolution | None = None,
    ) -> None:
        """Lists the files, from a snapshot where there is one. Raises what is in `remote.refusals`."""
        self.client = client
        self.commit = commit
        self.resolution = resolution or Resolution(commit, datetime.now(UTC))
        self._snapshots = snapshots
        self._snapshot = snapshots.read(commit) if snapshots else None
        self.files = {file.name: file for file in (self._snapshot.files if self._snapshot else client.files(commit))}
        self._urls = SignedUrls(self._resolve)
        self._heads: dict[str, Array] = {}
        self._headers: set[str] = set()
        """The files of weights whose headers were read."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(PARALLEL_READS)
        """Whatever asks for ranges, no more than `buffer_bytes` is for are read at a time."""

    @cached_property
    def directory(self) -> Path:
        return Path(f"{self.client.repository}@{self.commit[:SHOWN_OF_COMMIT]}")

    def require(self) -> None:
        """Is there, as its files were listed."""

    def names(self, most: int) -> frozenset[str]:
        return frozenset(sorted(self.files)[:most])

    def path(self, name: str) -> Path:
        return self.directory / name

    def exists(self, name: str) -> bool:
        return name in self.files

    def is_file(self, name: str) -> bool:
        return name in self.files

    def refuse_broken_link(self, name: str) -> None:
        """The Hub has no links that lead nowhere."""

    def read_ahead(self, names: Iterable[str]) -> None:
        wanted = [self.files[name] for name in names if name in self.files]
        with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="header") as pool:
            reads = [pool.submit(self.head, file) for file in wanted]
            try:
                for read in as_completed(reads):
                    read.result()
            except BaseException:
                self.client.budget.interrupt()  # the others may wait for minutes
                pool.shutdown(cancel_futures=True)
                raise

    @contextmanager
    def stream(self, name: str) -> Iterator["HubStream"]:
        if name not in self.files:
            raise FileNotFoundError(name)
        if name.endswith(WEIGHTS):
            with self._lock:
                self._headers.add(name)
        yield HubStream(self, self.files[name])

    def open(self, file: SourceFile) -> RemoteFile:
        entry = self._entry(file)
        return RemoteFile(
            lambda position, nbytes: self._read_range_or_head(entry, position, nbytes),
            self._fetch_pool,
            self.client.budget.interrupt,
        )

    def stat(self, file: SourceFile) -> ContentStat:
        entry = self._entry(file)
        return ContentStat(nbytes=entry.nbytes, digest=self.version(entry))

    def version(self, file: HubFile) -> str:
        """The digest of a file's content; of a server that lists none, the commit by which it is read."""
        return file.sha256 or file.oid or f"{self.client.server.host} {self.client.repository} {self.commit}"

    def _entry(self, file: SourceFile) -> HubFile:
        entry = self.files.get(file.path.name)
        if entry is None or entry.nbytes != file.nbytes:
            raise SourceChanged(file.path, "the commit has no such file")
        return entry

    @cached_property
    def _ranges(self) -> RangeReader:
        """Made when bytes are asked for: what a snapshot has needs no certificates."""
        return RangeReader(self.client.server.certificates())

    @cached_property
    def _fetch_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")

    def head(self, file: HubFile) -> Array:
        """Returns the first bytes of a file, which are kept; small files are whole."""
        with self._lock:
            if (head := self._heads.get(file.name)) is not None:
                return head
        content = self._kept(file)
        if content is None and file.sha256 is None and file.nbytes <= SMALL_BYTES:
            content = self._whole(file)
        if content is None:
            head = self.read_range(file, 0, min(HEAD_BYTES, file.nbytes))
        else:
            head = np.frombuffer(content, np.uint8)
        with self._lock:
            return self._heads.setdefault(file.name, head)

    def _kept(self, file: HubFile) -> bytes | None:
        if self._snapshot is None:
            return None
        return self._snapshot.header(file) if file.name.endswith(WEIGHTS) else self._snapshot.content(file)

    def _whole(self, file: HubFile) -> bytes:
        """Reads a small file, and compares it with the digest that is listed."""
        for _ in range(FIRST_ATTEMPTS):
            if file.sha256 is None:
                content = self._content_of_git(file)
            else:
                parts = [(at, min(PART_BYTES, file.nbytes - at)) for at in range(0, file.nbytes, PART_BYTES)]
                content = b"".join(self.read_range(file, *part).tobytes() for part in parts)
            if is_content_of(file, content):
                return content
        raise SourceChanged(self.path(file.name), "the server lists another content than it delivers")

    def _content_of_git(self, file: HubFile) -> bytes:
        try:
            return self.client.content(self.commit, file.name, file.nbytes + 1)
        except FileNotFoundError as error:
            raise SourceChanged(self.path(file.name), "the server lists it and does not have it") from error

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

    def _keep(self) -> KeptCommit:
        small = [name for name, file in self.files.items() if is_small(file)]
        self.read_ahead(small)
        contents = {name: self._content(self.files[name]) for name in small}
        headers = {name: self._header(name) for name in sorted(self._headers)}
        files = self.files.values()
        if self._snapshots:
            try:
                return self._snapshots.write(self.commit, files, contents, headers)
            except OSError as error:
                log.warning("Nothing is kept of %s for later starts: %s", self.directory, error)
        try:
            elsewhere = Snapshots(Path(tempfile.mkdtemp(prefix="neuronmodel-snapshot-")), self.client.repository)
            return elsewhere.write(self.commit, files, contents, headers)
        except OSError as error:
            raise SourceUnreadable(self.directory, error) from error

    def _content(self, file: HubFile) -> bytes:
        head = self.head(file)
        return head.tobytes() if head.nbytes == file.nbytes else self._whole(file)

    def _header(self, name: str) -> bytes:
        """A file's bytes up to its tensors."""
        stream = HubStream(self, self.files[name])
        prefix = stream.read(LENGTH_BYTES)
        return prefix + stream.read(int.from_bytes(prefix, "little"))

    def _read_range_or_head(self, file: HubFile, position: int, nbytes: int) -> Array:
        """Reads a range; where the file's first bytes that were read already have it, from them."""
        head = self._heads.get(file.name)
        if head is not None and position + nbytes <= head.nbytes:
            return head[position : position + nbytes]
        return self.read_range(file, position, nbytes)

    def read_range(self, file: HubFile, position: int, nbytes: int) -> Array:
        """Reads a range, which is within the file. Raises SourceChanged and what is in `remote.refusals`."""
        if not nbytes:
            return np.empty(0, np.uint8)

        traffic = self.client.budget.traffic

        def attempt() -> Array:
            location = self._urls.location(file.name)
            try:
                with self._slots, traffic.reading.counted():
                    found = self._ranges.read(location, position, nbytes)
                traffic.read(found.nbytes)
                return found
            except RangeRefused as refused:
                if self._urls.is_outdated(file.name, location, self._is_rotated(location)):
                    raise Retry(refused.why, at=host_of(location.url)) from refused
                raise SourceForbidden(
                    f"{host_of(location.url)}, where {self.client.server.host} says that {self.path(file.name)} is, "
                    f"refuses to give it: {refused.why}. Check that the egress rules and the proxy let its answers "
                    "through unchanged."
                ) from refused

        return self.client.budget.run(attempt, "ranges")

    def _is_rotated(self, location: Location) -> bool:
        """Whether the endpoint delivers the file itself, and the token is another one by now."""
        return location.headers not in ((), self.client.authorization())

    def _resolve(self, name: str) -> tuple[Location, float | None]:
        file = self.files[name]
        try:
            found = self.client.resolve(self.commit, name)
        except FileNotFoundError as error:
            raise SourceChanged(self.path(name), "the commit has no such file any more") from error
        if (file.sha256 and found.sha256 not in (None, file.sha256)) or found.nbytes not in (None, file.nbytes):
            raise SourceChanged(self.path(name), "the server lists another content than it delivers")
        return Location(found.url, found.headers), found.lifetime_seconds


class HubStream:
    """A Stream, which reads the file's first bytes at once and more as they are asked for."""

    mtime_ns = 0

    def __init__(self, repository: HubRepository, file: HubFile) -> None:
        self._repository = repository
        self._file = file
        self._position = 0
        self.nbytes = file.nbytes
        self.content_digest = repository.version(file)

    def read(self, nbytes: int) -> bytes:
        end = min(self._position + nbytes, self.nbytes)
        found = bytearray()
        head = self._repository.head(self._file)
        if self._position < head.nbytes:
            found += head[self._position : end].tobytes()
        while (at := self._position + len(found)) < end:
            found += self._repository.read_range(self._file, at, min(PART_BYTES, end - at)).tobytes()
        self._position = end
        return bytes(found)

    def rewind(self) -> None:
        self._position = 0
