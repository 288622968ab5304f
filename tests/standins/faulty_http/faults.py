"""What goes wrong, and for which requests; rules come and go while the servers run."""

import itertools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from .messages import Request, Response, Text
from .origins import KnownAs

PAGE: Final = (
    "<!doctype html><html><head><title>Sign in</title></head><body>Please sign in to this network.</body></html>"
)
_RANGE_FROM = re.compile(r"bytes=(\d+)-")


@dataclass(frozen=True)
class Fault:
    """Which requests it is for, then what happens to them; several may meet in one request."""

    method: str | None = None
    origin: str | None = None
    """By its name; None: all."""
    operation: str | None = None
    """As the origin knows the request."""
    path: str = "*"
    """A glob over the request's path, or over the further name by which the origin knows it."""
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
    body: str = "as a fault was asked for"
    content_type: str = "text/plain"
    html: bool = False
    """A page with 200, as a portal or any other server answers."""
    set_headers: Mapping[str, str] = field(default_factory=dict)
    """`Retry-After` beside a status, or a `Content-Range` of other bytes."""
    drop_headers: tuple[str, ...] = ()
    """As mirrors and sloppy servers do with `ETag`."""
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

    def response(self) -> Response | None:
        """What is answered in place of the true answer."""
        if self.html:
            return Response(200, {"Content-Type": "text/html; charset=utf-8"}, Text(PAGE.encode()))
        if self.status is not None:
            return Response(self.status, {"Content-Type": self.content_type}, Text(self.body.encode()))
        return None


class Rule:
    """A fault with what it remembers of requests."""

    def __init__(self, number: int, fault: Fault) -> None:
        self.number = number
        self.fault = fault
        self.num_matched = 0
        self.num_used = 0
        self._random = random.Random(fault.seed)
        self._over = threading.Event()
        self._free_at = 0.0
        self._lock = threading.Lock()

    def takes(self, request: Request, known: KnownAs) -> bool:
        """Whether it is for this request, which then counts."""
        if not self._matches(request, known):
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
        """Bytes of a body that are about to be sent; for rules of a stand-in's own that go by their number."""

    def end(self) -> None:
        self._over.set()

    def described(self) -> dict[str, Any]:
        return {"id": self.number, "matched": self.num_matched, "used": self.num_used, **asdict(self.fault)}

    def _matches(self, request: Request, known: KnownAs) -> bool:
        fault = self.fault
        paths = [path for path in (request.path, known.name) if path is not None]
        return (
            fault.origin in (None, request.origin)
            and fault.operation in (None, known.operation)
            and fault.method in (None, request.method)
            and any(fnmatchcase(path, fault.path) for path in paths)
            and (fault.first_byte is None or _first_byte(request.range) >= fault.first_byte)
        )


def _plain_rule(number: int, fields: Mapping[str, Any]) -> Rule:
    return Rule(number, Fault(**fields))


class Faults:
    def __init__(self, rule: Callable[[int, Mapping[str, Any]], Rule] = _plain_rule) -> None:
        """`rule` makes one of a number and a fault's fields, for a stand-in with faults of its own."""
        self._rule = rule
        self._rules: dict[int, Rule] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Rule]:
        with self._lock:
            return iter(list(self._rules.values()))

    def add(self, **fields: Any) -> Rule:
        """Of the fields of the fault; TypeError for one that it does not have."""
        if isinstance(fields.get("drop_headers"), list):
            fields["drop_headers"] = tuple(fields["drop_headers"])
        rule = self._rule(next(self._numbers), fields)
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

    def of(self, request: Request, known: KnownAs) -> list[Rule]:
        return [rule for rule in self if rule.takes(request, known)]


def _first_byte(asked: str | None) -> int:
    """Of a range; -1 for a request for the whole file, or for its end."""
    found = _RANGE_FROM.match(asked or "")
    return int(found[1]) if found else -1
