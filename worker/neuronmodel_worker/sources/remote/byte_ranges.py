"""Reads ranges of what a URL names, by obstore: many at a time, without Python's lock, into memory of the library.

A range is whole or it is an error: an answer that is shorter, or that has the whole file instead of the range, is asked
for again.
"""

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from obstore import get
from obstore.exceptions import (
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import HTTPStore

from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.sources.remote.redaction import host_of, without_secrets
from neuronmodel_worker.sources.remote.refusals import CertificateUntrusted, EndpointInvalid
from neuronmodel_worker.sources.remote.retries import Retry

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

PART_BYTES: Final = 16 << 20
"""The most that is asked for at a time; obstore holds twice as much while it joins the pieces of an answer."""
MAX_STORES: Final = 512
"""A store is a client with connections of its own; a checkpoint of 405B has 191 files."""

TIMEOUTS: Final = {
    "connect_timeout": timedelta(seconds=10),
    "read_timeout": timedelta(seconds=20),  # a stall, not a slow line
    "timeout": timedelta(minutes=10),  # of 16 MiB: slower than 28 kB/s is no use
}
WITHIN: Final[Any] = {
    # A body that breaks off is continued where it ended; the pauses between whole attempts are those of RetryBudget.
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
}
CERTIFICATE: Final = re.compile(r"\bInvalidCertificate\(\s*(?P<why>\w+)")
"""Of the inner structure that obstore appends to a message, which alone names the cause."""
ANSWER: Final = re.compile(r"\bstatus code: .*", re.DOTALL)
"""What a server answered, its own words last; before it obstore repeats the request."""
CONNECT: Final = re.compile(
    r'\bConnectError\(\s*"(?P<what>[^"]{1,100})"(?:.{0,300}?\b(?:message|error): "(?P<why>[^"]{1,200})")?', re.DOTALL
)
TIMED_OUT: Final = re.compile(r"\bTimedOut\b")
PERFORMING: Final = re.compile(r"^.{0,80}?\bError performing \w+ \S+ in .{1,200}? - ", re.DOTALL)
"""What obstore was about, and how often it tried."""
REFUSED: Final = re.compile(r"\bstatus code: 4(?!08|25|29)\d\d\b")


class RangeRefused(Exception):
    """The server refuses the request (403, or 416 for what is beyond the end) or has no such object (404); `why` is in
    its words."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True)
class Location:
    """Where a file's bytes are: a URL and the headers that a request for it needs, which are secrets."""

    url: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass
class RangeReader:
    """Reads ranges. `ca_certificates` is PEM text, trusted in addition to the system's authorities."""

    ca_certificates: str | None = None
    _stores: "OrderedDict[Location, HTTPStore]" = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, location: Location, start: int, nbytes: int) -> Array:
        """Reads a range, once; the array is read-only.

        Raises Retry, RangeRefused and CertificateUntrusted, without what caused them: obstore's errors have the whole
        URL, and a traceback would show it.
        """
        try:
            answer = get(self._store(location), "", options={"range": (start, start + nbytes)})
            data = np.frombuffer(answer.buffer(), np.uint8)  # type: ignore[call-overload]
        except FileNotFoundError:
            raise RangeRefused("it is not there (404)") from None
        except (PermissionDeniedError, UnauthenticatedError, PreconditionError) as error:
            raise RangeRefused(_answer(error, location)) from None
        except NotSupportedError:
            raise self._retry(location, "it answers with something else than the range") from None
        except BaseError as error:
            if found := CERTIFICATE.search(str(error)):
                raise CertificateUntrusted(host_of(location.url), found["why"]) from None
            why = _answer(error, location)
            if REFUSED.search(why):
                raise RangeRefused(why) from None
            raise self._retry(location, why) from None
        if data.nbytes != nbytes:
            raise self._retry(location, f"it answered {data.nbytes:,} of {nbytes:,} bytes")
        return data  # type: ignore[no-any-return]

    @staticmethod
    def _retry(location: Location, why: str) -> Retry:
        return Retry(why, at=host_of(location.url))

    def _store(self, location: Location) -> HTTPStore:
        with self._lock:
            if (store := self._stores.get(location)) is None:
                options: ClientConfig = {**TIMEOUTS, "allow_http": location.url.startswith("http://")}  # type: ignore[typeddict-item]
                if self.ca_certificates:
                    options["root_certificate"] = self.ca_certificates
                if location.headers:
                    options["default_headers"] = dict(location.headers)
                retries: RetryConfig = WITHIN
                try:
                    store = HTTPStore(location.url, client_options=options, retry_config=retries)
                except ValueError:
                    raise EndpointInvalid(
                        "The server says that a file is where no server can be: its URL has no host that is one. Name "
                        "another endpoint."
                    ) from None
                self._stores[location] = store
                while len(self._stores) > MAX_STORES:
                    self._stores.popitem(last=False)
            return store


def _answer(error: BaseError, location: Location) -> str:
    sent = [word for _, value in location.headers for word in value.split()]
    return cause_of(str(error), *sent)


def cause_of(text: str, *secrets: str) -> str:
    """Returns what a message of obstore's says in the end, without secrets: the server's answer, or why there is
    none."""
    if found := ANSWER.search(text):
        return without_secrets(found[0], *secrets)
    if found := CONNECT.search(text):
        return without_secrets(": ".join(filter(None, (found["what"], found["why"]))), *secrets)
    if TIMED_OUT.search(text):
        return "nothing came in time"
    return without_secrets(PERFORMING.sub("", text), *secrets)
