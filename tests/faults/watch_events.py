"""What becomes of the events of a watch on their way: some never come, or late, or twice."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.faults.requests import ApiRequest

MADE_UP: Final = frozenset({"pods", "jobs"})
"""Resources whose names differ from run to run."""
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
    """The object's; of what has a name that is made up, such as a pod, its component and number."""
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
    _parts: dict[tuple[str, str], str] = field(default_factory=dict)
    """By resource and name, what an object with a made-up name is called."""

    def forget(self) -> None:
        """Events are numbered from 1 again."""
        for memory in (self.ids, self._numbers, self._known, self._parts):
            memory.clear()

    def id_of(self, request: ApiRequest, event: Event) -> EventId | None:
        """None for what is no event of an object: bookmarks and errors."""
        if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
            return None
        meta = event["object"]["metadata"]
        version = (request.resource, meta["name"], event["type"], meta["resourceVersion"])
        if (known := self._known.get(version)) is not None:
            return known
        name = self._part(request.resource, meta)
        self._numbers[request.resource, name] += 1
        found = EventId(request.resource, name, self._numbers[request.resource, name])
        self._known[version] = found
        self.ids.append(found)
        return found

    def _part(self, resource: str, meta: Mapping[str, Any]) -> str:
        name: str = meta["name"]
        component = next((v for k, v in meta.get("labels", {}).items() if k.endswith("/component")), None)
        if resource not in MADE_UP or component is None:
            return name
        if (part := self._parts.get((resource, name))) is None:
            others = [each for (kind, _), each in self._parts.items() if kind == resource]
            number = 1 + sum(each.split()[0] == component for each in others)
            part = self._parts[resource, name] = f"{component} {number}"
        return part


@dataclass(frozen=True)
class Passed:
    """What of an event goes on now."""

    now: list[Event]
    held: Event | None = None
    ends: bool = False


@dataclass
class EventFaults:
    """What a proxy does with events. `dropped` never come; `late` come after the next `behind` events of the same
    watch, or after `held_seconds` if there are fewer; `repeated` come twice. After those in `closing` the watch ends,
    and after those in `expiring` it says 410 Gone before."""

    dropped: frozenset[EventId] = frozenset()
    late: frozenset[EventId] = frozenset()
    behind: int = 3
    held_seconds: float = 8.0
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
        return [_line(each) for each in now]

    def held_back(self) -> list[bytes]:
        """The lines of all events that are still held back, which are so no longer."""
        held, self._held = self._held, []
        return [_line(event) for event, _ in held]

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    def _due(self, count: int) -> list[Event]:
        left = [(event, behind - count) for event, behind in self._held]
        self._held = [(event, behind) for event, behind in left if behind > 0]
        return [event for event, behind in left if behind <= 0]


def _line(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"
