"""Lists objects, asks for the state of one, and reads ranges, by obstore. Everything that it may use is given to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import numpy as np
import obstore
from obstore.exceptions import BaseError, NotSupportedError, PreconditionError
from obstore.store import S3Store

from neuronmodel_api.sources.s3 import DEFAULT_S3_REGION
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.remote.byte_ranges import CERTIFICATE, TIMEOUTS, WITHIN
from neuronmodel_worker.sources.remote.certificates import no_certificates
from neuronmodel_worker.sources.remote.refusals import CertificateUntrusted
from neuronmodel_worker.sources.remote.retries import Retry, RetryBudget
from neuronmodel_worker.sources.remote.shared_property import shared_property
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.answers import BucketNotFound, S3Error, failure_of
from neuronmodel_worker.sources.s3.credentials import Credentials, KeyFiles, without_variables

T = TypeVar("T")

MAX_OBJECTS: Final = 20_000
"""Of one prefix; a checkpoint of 405B has some 200."""


class ObjectChanged(Exception):
    """An object is not what it was when it was listed; `what` says how."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class S3Server:
    """Where buckets are. `endpoint` is empty for AWS; `certificates` gives PEM text, trusted in addition."""

    region: str = DEFAULT_S3_REGION
    endpoint: str = ""
    requester_pays: bool = False
    certificates: Callable[[], str | None] = no_certificates

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).netloc or f"s3.{self.region}.amazonaws.com"


@dataclass(frozen=True)
class S3Object:
    """The state of an object. `etag` and `version` are empty where a server has none."""

    key: str
    nbytes: int
    etag: str
    version: str
    modified: datetime

    def is_like(self, listed: "S3Object") -> bool:
        """Whether size and Last-Modified are those of an object without an ETag, to the second that a header has."""
        seconds = {each.modified.replace(microsecond=0) for each in (self, listed)}
        return self.nbytes == listed.nbytes and len(seconds) == 1


@dataclass
class S3Client:
    """Asks about one bucket. Methods raise what is in `remote.refusals`."""

    server: S3Server
    address: S3Address
    credentials: Credentials
    budget: RetryBudget = field(init=False)

    def __post_init__(self) -> None:
        self.budget = RetryBudget(self.where)

    @property
    def where(self) -> str:
        """How messages name the bucket."""
        return f"bucket {self.address.bucket} at {self.server.host}"

    @shared_property
    def _store(self) -> S3Store:
        """One client for all objects, with connections and credentials of its own."""
        options: dict[str, Any] = {**TIMEOUTS, "allow_http": self.server.endpoint.startswith("http://")}
        if certificates := self.server.certificates():
            options["root_certificate"] = certificates
        given: dict[str, Any] = {"region": self.server.region, **self.credentials.options()}
        if self.server.endpoint:
            given["endpoint"] = self.server.endpoint
        if self.server.requester_pays:
            given["request_payer"] = True
        with without_variables():
            return S3Store(self.address.bucket, client_options=options, retry_config=WITHIN, **given)  # type: ignore[arg-type]

    def objects(self) -> list[S3Object]:
        """Returns the objects right below the prefix. Raises BucketNotFound for more than a checkpoint can be."""

        def attempt() -> list[S3Object]:
            prefix = self.address.prefix or None
            found = obstore.list_with_delimiter(self._store, prefix)["objects"]
            return [_object(each) for each in found]

        objects = self._run(attempt)
        if len(objects) > MAX_OBJECTS:
            raise BucketNotFound(
                f"{self.address} has {len(objects):,} objects right below it, and no checkpoint has more than "
                f"{MAX_OBJECTS:,}. Name the prefix of one."
            )
        return objects

    def folders(self) -> list[str]:
        """Returns the names of the prefixes right below the prefix."""
        return self._run(lambda: self._folders(self.address.prefix))

    def beginning_alike(self) -> list[str]:
        """Returns the names of the prefixes that begin as the prefix does and go on."""
        parent, _, name = self.address.prefix.rpartition("/")
        found: list[str] = self._run(lambda: self._folders(parent))
        return [each for each in found if name and each.startswith(name) and each != name]

    def _folders(self, prefix: str) -> list[str]:
        below = obstore.list_with_delimiter(self._store, prefix or None)["common_prefixes"]
        return sorted(str(each).rstrip("/").rpartition("/")[2] for each in below)

    def head(self, key: str) -> S3Object:
        """Returns the state of one object. Raises FileNotFoundError."""
        return self._run(lambda: _object(obstore.head(self._store, key)))

    def read(self, found: S3Object, position: int, nbytes: int) -> Array:
        """Reads a range once, of the object as it was listed. Raises ObjectChanged, Retry, and refusals."""
        options: dict[str, Any] = {"range": (position, position + nbytes)}
        if found.version:
            options["version"] = found.version
        if found.etag:
            options["if_match"] = found.etag
        try:
            answer = self._asked(lambda: self._get(found, options))
            data = np.frombuffer(answer, np.uint8)
        except FileNotFoundError:
            raise ObjectChanged("it is gone") from None
        except PreconditionError:
            raise ObjectChanged("it was replaced") from None
        except NotSupportedError:
            raise Retry("it answers with something else than the range", at=self.server.host) from None
        if data.nbytes != nbytes:
            raise Retry(f"it answered {data.nbytes:,} of {nbytes:,} bytes", at=self.server.host)
        return data

    def _get(self, found: S3Object, options: dict[str, Any]) -> Any:
        """The bytes of a range. Of an object without an ETag the server is not asked to compare anything: some take it
        for changed in the second of its own Last-Modified."""
        answer = obstore.get(self._store, found.key, options=options)  # type: ignore[arg-type]
        if not found.etag and not _object(answer.meta).is_like(found):
            raise ObjectChanged("it was replaced")
        return answer.buffer()

    def _run(self, attempt: Callable[[], T]) -> T:
        return self.budget.run(lambda: self._asked(attempt))

    def _asked(self, attempt: Callable[[], T]) -> T:
        """Asks once. Raises Retry and refusals; what is missing or has changed is raised as it is. obstore's own errors
        have whole URLs, and a traceback would show them."""
        try:
            return attempt()
        except WorkerFailure:
            raise
        except (FileNotFoundError, PreconditionError, NotSupportedError) as error:
            found = S3Error(str(error))
            if found.code == "NoSuchBucket":
                raise failure_of(found, self.where, self.server.region) from None
            raise type(error)("see the object") from None
        except BaseError as error:
            if isinstance(self.credentials, KeyFiles):
                self.credentials()  # what is wrong with the files does not come through obstore
            text = str(error)
            if certificate := CERTIFICATE.search(text):
                raise CertificateUntrusted(self.server.host, certificate["why"]) from None
            found = S3Error(text)
            # A body that breaks off is continued by obstore, whose error is another one then.
            if found.code == "PreconditionFailed":
                raise PreconditionError("see the object") from None
            if found.code == "NoSuchKey":
                raise FileNotFoundError("see the object") from None
            raise failure_of(found, self.where, self.server.region) from None


def _object(found: Any) -> S3Object:
    return S3Object(
        key=str(found["path"]),
        nbytes=int(found["size"]),
        etag=found["e_tag"] or "",
        version=found["version"] or "",
        modified=found["last_modified"],
    )
