"""A checkpoint in a bucket, at the state in which its objects were listed.

What names that state is no digest of content: an ETag depends on how an object was uploaded, and some servers have
none. So content is known as that of a folder is: by the state, where the volume has a record of it, else by comparing
the tensors' pieces with those of sealed shards (`prepare.identify`). An object is told from others by ETag and version;
one of a server without ETags by size and Last-Modified alone, to the second, and `warnings` says so.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from neuronmodel_worker.failures import SourceChanged
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.cgroups import available_bytes
from neuronmodel_worker.io.untrusted_input import shown
from neuronmodel_worker.sources.interface import Resolution
from neuronmodel_worker.sources.remote.byte_ranges import PART_BYTES
from neuronmodel_worker.sources.remote.listed_file import ListedFile
from neuronmodel_worker.sources.remote.refusals import SourceForbidden, SourceRateLimited, SourceUnreachable
from neuronmodel_worker.sources.remote.remote_source import WEIGHTS, RemoteSource
from neuronmodel_worker.sources.remote.snapshot import Snapshots, is_small
from neuronmodel_worker.sources.remote.traffic import Traffic
from neuronmodel_worker.sources.s3.address import SCHEME, S3Address
from neuronmodel_worker.sources.s3.answers import BucketNotFound
from neuronmodel_worker.sources.s3.client import ObjectChanged, S3Client, S3Object

log = logging.getLogger(__name__)

PARALLEL_READS: Final = 64
"""Ranges in flight: S3 brings 85 to 90 MB/s a connection."""
LEAST_READS: Final = 16
MEMORY_SHARE: Final = 8
"""Buffers of ranges take at most this part of the memory that is free, where that is for more than LEAST_READS."""
CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
USUAL: Final = (
    CONFIG, INDEX, SINGLE, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""Names that are asked for where a bucket may not be listed."""
QUOTE: Final = '"'
MAX_INDEX_BYTES: Final = 64 << 20
MAX_SHOWN: Final = 5


def open_bucket(
    client: S3Client,
    kept: Path | None = None,
    revision: str | None = None,
    watch: Callable[[Traffic], None] = lambda _: None,
    resolved_at: datetime | None = None,
) -> "S3Bucket":
    """Lists the checkpoint's files. Raises what is in `remote.refusals`.

    In the folder `kept` are snapshots of what was read before: a `revision` that has one is opened without a request,
    and where the server cannot be reached, the state is the one that was listed last. `watch` is called with the
    counters before the first request. `resolved_at` is when `revision` was listed.
    """
    snapshots = Snapshots.of(kept, str(client.address).removeprefix(SCHEME))
    watch(client.budget.traffic)
    noted_as = f"state at {client.server.host}"
    if revision and snapshots and snapshots.read(revision):
        return S3Bucket(client, Resolution(revision, resolved_at or datetime.now(UTC)), (), snapshots)
    try:
        files = listed_files(client)
    except (SourceUnreachable, SourceRateLimited) as failure:
        if not snapshots or not (noted := snapshots.noted_revision(noted_as)):
            raise
        log.warning("%s %s is taken as it was listed before.", failure, client.address)
        return S3Bucket(client, Resolution(*noted, failure), (), snapshots)
    found = Resolution(revision_of(files), datetime.now(UTC))
    if snapshots:
        snapshots.note_revision(noted_as, found.revision, found.at)
    return S3Bucket(client, found, files, snapshots)


def _is_read(file: ListedFile) -> bool:
    return file.name.endswith(WEIGHTS) or is_small(file)


def reads_within(free_bytes: int) -> int:
    """How many ranges are read at a time where so much memory is free."""
    return max(LEAST_READS, min(PARALLEL_READS, free_bytes // MEMORY_SHARE // (2 * PART_BYTES)))


def revision_of(files: Iterable[ListedFile]) -> str:
    """Returns a digest of the state of all files that are read: names, sizes, ETags and versions."""
    facts = sorted(
        [file.name, file.nbytes, file.etag, file.version, "" if file.etag else file.modified]
        for file in files
        if _is_read(file)
    )
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


class S3Bucket(RemoteSource):
    """The objects right below a prefix."""

    def __init__(
        self, client: S3Client, resolution: Resolution, files: Sequence[ListedFile], snapshots: Snapshots | None = None
    ) -> None:
        """`files` are those of the resolution; where there are none, a snapshot has them."""
        self.client = client
        self._listed = files
        name, reads = str(client.address).removeprefix(SCHEME), reads_within(available_bytes())
        super().__init__(name, resolution, client.budget, reads, snapshots)

    @property
    def warnings(self) -> tuple[str, ...]:
        read = [file for file in self.files.values() if _is_read(file)]
        without = sum(not file.etag for file in read)
        if not without:
            return ()
        return (
            f"{self.client.server.host} gives no ETag for {without} of the {len(read)} files that are read: whether "
            "they change is told by size and Last-Modified alone, to the second",
        )

    def _list(self) -> Iterable[ListedFile]:
        return self._listed

    def version(self, file: ListedFile) -> str:
        """What names this state of an object, and is no digest of its content, which an ETag may look like: it depends
        on how the object was uploaded."""
        state = f"ETag {file.etag.strip(QUOTE)}" if file.etag else file.modified
        return f"{state} {file.version}" if file.version else state

    def _attempt(self, file: ListedFile, position: int, nbytes: int) -> Array:
        try:
            with self._reading():
                found = self.client.read(_object(self.client.address, file), position, nbytes)
        except ObjectChanged as changed:
            raise SourceChanged(self.path(file.name), changed.what) from None
        self.budget.traffic.read(found.nbytes)
        return found


def listed_files(client: S3Client) -> list[ListedFile]:
    """Returns the files of the checkpoint, with the versions of those that are read. Raises what is in
    `remote.refusals`, BucketNotFound, and SourceChanged."""
    try:
        found = client.objects()
    except SourceForbidden:
        found = _asked_by_name(client)
        if not found:
            raise
    files = [_listed(client.address, each) for each in found]
    if not any(file.name == CONFIG for file in files):
        _refuse_other_places(client)
    read = [each for each, file in zip(found, files, strict=True) if _is_read(file)]
    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="state") as pool:
        states = dict(zip([each.key for each in read], pool.map(partial(_state, client), read), strict=True))
    return [_listed(client.address, states.get(each.key, each)) for each in found]


def _state(client: S3Client, listed: S3Object) -> S3Object:
    """The state with its version, which a list does not have."""
    try:
        return client.head(listed.key)
    except FileNotFoundError as error:
        raise SourceChanged(Path(listed.key), "it was listed and is gone") from error
    except SourceForbidden:
        return listed  # reading it says so, if it is read at all


def _asked_by_name(client: S3Client) -> list[S3Object]:
    """Returns the files of a checkpoint in a bucket that may not be listed: usual names, and those in the index."""
    found = _existing(client, USUAL)
    by_name = {each.key: each for each in found}
    index = by_name.get(client.address.key(INDEX))
    if index is None or index.nbytes > MAX_INDEX_BYTES:
        return found
    try:
        named = json.loads(client.budget.run(lambda: client.read(index, 0, index.nbytes).tobytes()))["weight_map"]
        names = sorted({str(each) for each in named.values()} - set(USUAL))
    except (ValueError, KeyError, TypeError, AttributeError, ObjectChanged):
        return found  # opening the checkpoint says what is wrong with the index
    return [*found, *_existing(client, [name for name in names if "/" not in name])]


def _existing(client: S3Client, names: Iterable[str]) -> list[S3Object]:
    def ask(name: str) -> S3Object | None:
        try:
            return client.head(client.address.key(name))
        except (FileNotFoundError, SourceForbidden):  # without the right to list, what is missing is forbidden
            return None

    with ThreadPoolExecutor(PARALLEL_READS, thread_name_prefix="state") as pool:
        return [found for found in pool.map(ask, names) if found]


def _refuse_other_places(client: S3Client) -> None:
    """Raises BucketNotFound, with what is there, for a prefix that has no checkpoint but others below or beside it."""
    below = client.folders()
    if below:
        raise BucketNotFound(f"{client.address} has no {CONFIG}, but {_named(below)} below it. Name one of them.")
    beside = client.beginning_alike()
    if beside:
        raise BucketNotFound(
            f"There is nothing below {client.address}/; there is {_named(beside)} in the same place. Name one of them."
        )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(shown(f"{name}/") for name in names[:MAX_SHOWN]) + more


def _listed(address: S3Address, found: S3Object) -> ListedFile:
    name = found.key.removeprefix(f"{address.prefix}/") if address.prefix else found.key
    return ListedFile(name, found.nbytes, etag=found.etag, version=found.version, modified=found.modified.isoformat())


def _object(address: S3Address, file: ListedFile) -> S3Object:
    modified = datetime.fromisoformat(file.modified)
    return S3Object(address.key(file.name), file.nbytes, file.etag, file.version, modified)
