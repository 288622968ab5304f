"""A repository at one commit, as a source of weights."""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.hub.address import HubAddress
from neuronmodel_worker.sources.hub.client import HubClient, HubServer
from neuronmodel_worker.sources.hub.signed_urls import SignedUrls
from neuronmodel_worker.sources.interface import Resolution
from neuronmodel_worker.sources.remote.byte_ranges import Location, RangeReader, RangeRefused
from neuronmodel_worker.sources.remote.listed_file import ListedFile
from neuronmodel_worker.sources.remote.redaction import host_of
from neuronmodel_worker.sources.remote.refusals import SourceForbidden, SourceRateLimited, SourceUnreachable
from neuronmodel_worker.sources.remote.remote_source import RemoteSource
from neuronmodel_worker.sources.remote.retries import Retry
from neuronmodel_worker.sources.remote.shared_property import shared_property
from neuronmodel_worker.sources.remote.snapshot import Snapshots
from neuronmodel_worker.sources.remote.traffic import Traffic

log = logging.getLogger(__name__)

PARALLEL_READS: Final = 16
"""Ranges in flight. The Hub's delivery brings 20 to 90 MB/s a connection."""
SMALL_BYTES: Final = 16 << 20
"""Files of git's own up to this size are read whole, and compared with git's digest."""
SHOWN_OF_COMMIT: Final = 12


def open_repository(
    address: HubAddress,
    server: HubServer,
    kept: Path | None = None,
    watch: Callable[[Traffic], None] = lambda _: None,
    resolved_at: datetime | None = None,
) -> "HubRepository":
    """Finds the commit that the revision is at, and its files. Raises what is in `remote.refusals`.

    In the folder `kept` are snapshots of what was read before: a commit that has one is opened without a request, and
    where the server cannot be reached, a revision is the commit that it was at when it was last asked for. `watch` is
    called with the counters before the first request. `resolved_at` is when a revision was found to be at the commit
    that is the address.
    """
    client, snapshots = HubClient(server, address.repository), Snapshots.of(kept, address.repository)
    watch(client.budget.traffic)
    found = Resolution(address.revision, resolved_at or datetime.now(UTC))
    if not address.is_commit:
        found = _resolve_revision(client, address.revision, snapshots)
    return HubRepository(client, found, snapshots)


def _resolve_revision(client: HubClient, revision: str, snapshots: Snapshots | None) -> Resolution:
    noted_as = f"{revision} of {client.server.endpoint}"  # a mirror may be behind
    try:
        commit = client.commit(revision)
    except (SourceUnreachable, SourceRateLimited) as failure:
        if not snapshots or not (noted := snapshots.noted_revision(noted_as)):
            raise
        log.warning("%s Revision %s is taken for the commit that it was at before, %s.", failure, revision, noted[0])
        return Resolution(*noted, failure)
    now = datetime.now(UTC)
    if snapshots:
        snapshots.note_revision(noted_as, commit, now)
    return Resolution(commit, now)


class HubRepository(RemoteSource):
    """A repository at one commit."""

    def __init__(self, client: HubClient, resolution: Resolution, snapshots: Snapshots | None = None) -> None:
        """Lists the files, from a snapshot where there is one. Raises what is in `remote.refusals`."""
        self.client = client
        self.commit = resolution.revision
        self._urls = SignedUrls(self._resolve)
        name = f"{client.repository}@{self.commit[:SHOWN_OF_COMMIT]}"
        super().__init__(name, resolution, client.budget, PARALLEL_READS, snapshots)

    @shared_property
    def _ranges(self) -> RangeReader:
        """Made for the first range: a start from what is kept needs no certificates."""
        return RangeReader(self.client.server.certificates())

    def _list(self) -> Iterable[ListedFile]:
        return self.client.files(self.commit)

    def version(self, file: ListedFile) -> str:
        """The digest of a file's content; of a server that lists none, the commit by which it is read."""
        return file.sha256 or file.oid or f"{self.client.server.host} {self.client.repository} {self.commit}"

    def _small_content(self, file: ListedFile) -> bytes | None:
        """Files of git's own are whole at the endpoint."""
        if file.sha256 is not None or file.nbytes > SMALL_BYTES:
            return None
        try:
            return self.client.content(self.commit, file.name, file.nbytes + 1)
        except FileNotFoundError as error:
            raise SourceChanged(self.path(file.name), "the server lists it and does not have it") from error

    def _attempt(self, file: ListedFile, position: int, nbytes: int) -> Array:
        location = self._urls.location(file.name)
        try:
            with self._reading():
                found = self._ranges.read(location, position, nbytes)
        except RangeRefused as refused:
            if self._urls.is_outdated(file.name, location, self._is_rotated(location)):
                raise Retry(refused.why, at=host_of(location.url)) from refused
            raise SourceForbidden(
                f"{host_of(location.url)}, where {self.client.server.host} says that {self.path(file.name)} is, "
                f"refuses to give it: {refused.why}. Check that the egress rules and the proxy let its answers "
                "through unchanged."
            ) from refused
        self.budget.traffic.read(found.nbytes)
        return found

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
