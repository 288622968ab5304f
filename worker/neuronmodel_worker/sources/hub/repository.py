"""A repository at one commit, as a source of weights: listed once, read by ranges, never changed."""

import hashlib
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np

from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubClient, HubFile, HubServer
from neuronmodel_worker.sources.hub.signed_urls import SignedUrls
from neuronmodel_worker.sources.interface import ContentStat, SourceFile
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES, Location, RangeReader, RangeRefused
from neuronmodel_worker.sources.remote.redaction import host_of
from neuronmodel_worker.sources.remote.refusals import SourceForbidden
from neuronmodel_worker.sources.remote.remote_file import RemoteFile
from neuronmodel_worker.sources.remote.retries import Retry

PARALLEL_READS: Final = 16
"""Ranges in flight. The Hub's delivery brings 20 to 90 MB/s a connection."""
FETCH_THREADS: Final = 8
HEAD_BYTES: Final = 256 << 10
"""What is asked for first of a file that is read in order: most headers are shorter."""
SMALL_BYTES: Final = 16 << 20
"""Files of git's own up to this size are read whole, and compared with git's digest."""
SHOWN_OF_COMMIT: Final = 12


def open_repository(address: HubAddress, server: HubServer) -> "HubRepository":
    """Finds the commit that the revision is at, and lists its files. Raises what is in `remote.refusals`."""
    client = HubClient(server, address.repository)
    commit = address.revision if address.is_commit else client.commit(address.revision)
    return HubRepository(client, commit)


class HubRepository:
    """A WeightSource."""

    is_local = False
    parallel_reads = PARALLEL_READS
    buffer_bytes = 2 * PARALLEL_READS * PART_BYTES

    def __init__(self, client: HubClient, commit: str) -> None:
        """Lists the files. Raises what is in `remote.refusals`."""
        self.client = client
        self.commit = commit
        self.files = {file.name: file for file in client.files(commit)}
        self._ranges = RangeReader(client.server.ca_certificates)
        self._urls = SignedUrls(self._resolve)
        self._heads: dict[str, Array] = {}
        self._lock = threading.Lock()

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
        wanted = [name for name in names if name in self.files]
        with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="header") as pool:
            for _ in pool.map(self._head, wanted):
                pass

    @contextmanager
    def stream(self, name: str) -> Iterator["HubStream"]:
        if name not in self.files:
            raise FileNotFoundError(name)
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
        return ContentStat(nbytes=entry.nbytes, digest=entry.sha256 or entry.oid)

    def _entry(self, file: SourceFile) -> HubFile:
        entry = self.files.get(file.path.name)
        if entry is None or entry.nbytes != file.nbytes:
            raise SourceChanged(file.path, "the commit has no such file")
        return entry

    @cached_property
    def _fetch_pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(FETCH_THREADS, thread_name_prefix="fetch")

    def head(self, file: HubFile) -> Array:
        """Returns the first bytes of a file, which are kept; small files are whole."""
        return self._head(file.name)

    def _head(self, name: str) -> Array:
        with self._lock:
            if (head := self._heads.get(name)) is not None:
                return head
        file = self.files[name]
        head = self._whole(file) if file.sha256 is None and file.nbytes <= SMALL_BYTES else self._first_range(file)
        with self._lock:
            return self._heads.setdefault(name, head)

    def _first_range(self, file: HubFile) -> Array:
        return self.read_range(file, 0, min(HEAD_BYTES, file.nbytes))

    def _whole(self, file: HubFile) -> Array:
        """Reads a small file, and compares it with git's digest."""

        def attempt() -> Array:
            content = self.client.content(self.commit, file.name, SMALL_BYTES)
            if file.oid and file.oid != git_digest(content):
                raise Retry(f"{self.client.server.host} answers another content for {file.name} than it lists")
            return np.frombuffer(content, np.uint8)

        return self.client.budget.run(attempt)

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

        def attempt() -> Array:
            location = self._urls.location(file.name)
            try:
                return self._ranges.read(location, position, nbytes)
            except RangeRefused as refused:
                if self._urls.is_outdated(file.name, location):
                    raise Retry(refused.why) from refused
                raise SourceForbidden(
                    f"{host_of(location.url)}, where {self.client.server.host} says that {self.path(file.name)} is, "
                    f"refuses to give it: {refused.why}. Check that the egress rules and the proxy let its answers "
                    "through unchanged."
                ) from refused

        return self.client.budget.run(attempt)

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
        self.content_digest = file.sha256 or file.oid

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


def git_digest(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
