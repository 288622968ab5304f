"""What goes wrong, and for which requests; rules come and go while the servers run."""

import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .messages import Request

Replace = Callable[[str, str, Path | str | bytes], object]
"""Of a bucket, a key, by content."""

_RANGE_FROM = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Fault:
    """Which requests it is for, then what happens to them; several may meet in one request."""

    method: str | None = None
    origin: str | None = None
    """`s3`, `sts`, `pod-identity` or `metadata`; None: all."""
    operation: str | None = None
    """Of S3: `list`, `get`, `head` or `head-bucket`."""
    path: str = "*"
    """A glob over the request's path, or over the object's key."""
    first_byte: int | None = None
    """Only of requests for a range, those for one that begins here or later."""
    nth: int | None = None
    """Of the requests that match, the n-th only, from 1."""
    probability: float = 1.0
    seed: int = 0
    count: int | None = None
    """After so many requests it is over."""

    status: int | None = None
    """An answer in place of the true one, with `body`."""
    code: str | None = None
    """One of S3's errors in place of the answer, in XML; the status is its own where none is given."""
    message: str | None = None
    """In that XML, in place of the usual sentence."""
    body: str = ""
    content_type: str = "text/plain"
    set_headers: Mapping[str, str] = field(default_factory=dict)
    """`Retry-After` beside a status, or a `Content-Range` of other bytes."""
    drop_headers: tuple[str, ...] = ()
    """As sloppy servers do with `ETag`."""
    delay_seconds: float = 0.0
    """Before the headers."""
    never_answers: bool = False
    """A black hole: the request is taken and nothing comes, until the rule is removed; then the connection ends."""
    cut_before_headers: bool = False
    cut_after_bytes: int | None = None
    """The body ends there, though Content-Length promised more."""
    reset: bool = False
    """A connection that is cut is reset, and not closed in order."""
    stall_after_bytes: int | None = None
    """The body stops there, until the rule is removed or for `stall_seconds`."""
    stall_seconds: float = 3600.0
    short_by: int = 0
    """So many bytes less than the range has, with the Content-Length of what is sent."""
    ignore_range: bool = False
    """200 with the whole file."""
    corrupt: bool = False
    """One byte in the middle is another one."""
    bytes_per_second: float | None = None
    """Together, over all connections of the requests that match."""
    replace_after_bytes: int | None = None
    """Once so many bytes were sent to requests that match, together, their object is replaced: who has read them and
    asks again meets the new one. What is being sent stays of the old one."""
    replace_with: Path | str | bytes = b""


class Rule:
    """A fault with what it remembers of requests."""

    def __init__(self, number: int, fault: Fault, replace: Replace) -> None:
        self.number = number
        self.fault = fault
        self.num_matched = 0
        self.num_used = 0
        self.num_bytes = 0
        self._replace = replace
        self._random = random.Random(fault.seed)
        self._over = threading.Event()
        self._free_at = 0.0
        self._lock = threading.Lock()

    def takes(self, request: Request) -> bool:
        """Whether it is for this request, which then counts."""
        if not self._matches(request):
            return False
        with self._lock:
            self.num_matched += 1
            chosen = self.fault.nth in (None, self.num_matched) and self._random.random() < self.fault.probability
            if not chosen or (self.fault.count is not None and self.num_used >= self.fault.count):
                return False
            self.num_used += 1
            return True

    def pause(self, seconds: float) -> None:
        """At most until the rule is removed."""
        self._over.wait(seconds)

    def throttle(self, num_bytes: int) -> None:
        """Return when so many bytes more may be sent."""
        if not self.fault.bytes_per_second:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + num_bytes / self.fault.bytes_per_second
            wait = self._free_at - now
        self.pause(wait)

    def count_bytes(self, request: Request, num_bytes: int) -> None:
        """Bytes that are about to be sent."""
        after = self.fault.replace_after_bytes
        with self._lock:
            before = self.num_bytes
            self.num_bytes += num_bytes
            if after is not None and before < max(after, 1) <= self.num_bytes:
                self._replace(request.bucket, request.key, self.fault.replace_with)

    def end(self) -> None:
        self._over.set()

    def described(self) -> dict[str, Any]:
        """Without the content of a replacement, which may be bytes."""
        told = {name: value for name, value in asdict(self.fault).items() if name != "replace_with"}
        return {"id": self.number, "matched": self.num_matched, "used": self.num_used, **told}

    def _matches(self, request: Request) -> bool:
        fault = self.fault
        return (
            fault.origin in (None, request.origin)
            and fault.operation in (None, request.operation)
            and fault.method in (None, request.method)
            and any(fnmatchcase(path, fault.path) for path in (request.path, request.key))
            and (fault.first_byte is None or _first_byte(request.range) >= fault.first_byte)
        )


class Faults:
    def __init__(self, replace: Replace = lambda bucket, key, content: None) -> None:
        self._replace = replace
        self._rules: dict[int, Rule] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Rule]:
        with self._lock:
            return iter(list(self._rules.values()))

    def add(self, **fields: Any) -> Rule:
        """Of the fields of Fault; TypeError for one that it does not have."""
        if isinstance(fields.get("drop_headers"), list):
            fields["drop_headers"] = tuple(fields["drop_headers"])
        rule = Rule(next(self._numbers), Fault(**fields), self._replace)
        with self._lock:
            self._rules[rule.number] = rule
        return rule

    def remove(self, number: int) -> None:
        """What waits for it goes on."""
        with self._lock:
            rule = self._rules.pop(number)
        rule.end()

    def clear(self) -> None:
        for rule in self:
            self.remove(rule.number)

    def of(self, request: Request) -> list[Rule]:
        return [rule for rule in self if rule.takes(request)]


def _first_byte(asked: str | None) -> int:
    """Of a range; -1 for a request for the whole file, or for its end."""
    found = _RANGE_FROM.match(asked or "")
    return int(found[1]) if found else -1
