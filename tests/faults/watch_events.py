"""What becomes of the events of a watch on their way: some never come, or late, or twice."""

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.faults.requests import ApiRequest

Event = dict[str, Any]
GONE: Event = {
    "type": "ERROR",
    "object": {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
        "message": "too old resource version",
    },
}  # fmt: skip


@dataclass(frozen=True)
class EventId:
    """An event of one object, by its number among those of its object: the same in each run of the same story."""

    resource: str
    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.resource} {self.name} #{self.number}"


@dataclass
class Seen:
    """The events that passed, in all watches of a proxy. A version of an object that another watch had before is the
    same event."""

    ids: list[EventId] = field(default_factory=list)
    _numbers: Counter[tuple[str, str]] = field(default_factory=Counter)
    _known: dict[tuple[str, str, str, str], EventId] = field(default_factory=dict)

    def id_of(self, request: ApiRequest, event: Event) -> EventId | None:
        """None for what is no event of an object: bookmarks and errors."""
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return None
        meta = event["object"]["metadata"]
        version = (request.resource, meta["name"], event["type"], meta["resourceVersion"])
        if (known := self._known.get(version)) is not None:
            return known
        self._numbers[version[:2]] += 1
        found = EventId(request.resource, meta["name"], self._numbers[version[:2]])
        self._known[version] = found
        self.ids.append(found)
        return found


@dataclass(frozen=True)
class Passed:
    """What of an event goes on now."""

    now: list[Event]
    held: Event | None = None
    ends: bool = False


@dataclass
class EventFaults:
    """What a proxy does with events. `dropped` never come; `late` come after the next `behind` events of the same
    watch, or never if there are fewer; `repeated` come twice. After those in `closing` the watch ends, and after those
    in `expiring` it says 410 Gone before."""

    dropped: frozenset[EventId] = frozenset()
    late: frozenset[EventId] = frozenset()
    behind: int = 3
    repeated: frozenset[EventId] = frozenset()
    closing: frozenset[EventId] = frozenset()
    expiring: frozenset[EventId] = frozenset()
    num_befallen: int = 0

    def passed(self, identity: EventId | None, event: Event) -> Passed:
        if identity is None:
            return Passed([event])
        befallen = self.dropped | self.late | self.repeated | self.closing | self.expiring
        self.num_befallen += identity in befallen
        if identity in self.dropped:
            return Passed([])
        if identity in self.late:
            return Passed([], held=event)
        now = [event, event] if identity in self.repeated else [event]
        if identity in self.expiring:
            return Passed([*now, GONE], ends=True)
        return Passed(now, ends=identity in self.closing)


@dataclass
class WatchStream:
    """One watch: the lines that the client gets for each line of the API server."""

    request: ApiRequest
    seen: Seen
    faults: EventFaults
    _held: list[tuple[Event, int]] = field(default_factory=list)
    """Events, and how many others still come before them."""
    ended: bool = False

    def lines(self, line: bytes) -> list[bytes]:
        event: Event = json.loads(line)
        passed = self.faults.passed(self.seen.id_of(self.request, event), event)
        now = list(passed.now)
        if now:
            now += self._due(len(now))
        if passed.held:
            self._held.append((passed.held, self.faults.behind))
        self.ended = passed.ends
        return [json.dumps(each).encode() + b"\n" for each in now]

    def _due(self, count: int) -> list[Event]:
        left = [(event, behind - count) for event, behind in self._held]
        self._held = [(event, behind) for event, behind in left if behind > 0]
        return [event for event, behind in left if behind <= 0]
