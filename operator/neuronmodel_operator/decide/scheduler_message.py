"""Parses the scheduler's message about a pod that has no node: how many nodes were rejected, and why.

The message of Kubernetes is "0/12 nodes are available: 4 node(s) had untolerated taint(s), 8 Insufficient cpu.",
followed by what else it tried: preemption, resource claims to deallocate. That part does not say why the pod has no
node, and it changes from one attempt to the next.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

_HEAD: Final = re.compile(r"0/\d+ nodes are (?:un)?available: ?")
_TRIED_AFTERWARDS: Final = re.compile(r"\.+ (?=[a-z]).*$")
"""The reasons end with a full stop; what follows begins in lower case, whichever plugin wrote it."""
_REASON: Final = re.compile(r"(?:(?P<nodes>\d+) )?(?P<text>.+)")
_CHECKS: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"node\(s\) (?:were unschedulable|had unknown conditions|didn't match the requested node name)",
        r"node\(s\) had (?:untolerated )?taint",
        r"node\(s\) didn't (?:match (?:Pod's node affinity|scheduler-enforced node affinity)|satisfy plugin)",
        r"node\(s\) didn't have free ports|Insufficient |Too many pods",
    )
)
"""Checks in the scheduler's order; a node is reported under the first one that it fails. Volumes, topology and resource
claims come after these."""
_PLACE: Final = 3
"""The number of leading checks that a node passes only if nodes or pods change: it was not checked for volumes yet."""
_NO_VOLUME: Final = frozenset(
    {"node(s) didn't find available persistent volumes to bind", "node(s) did not have enough free storage"}
)
_ABSENT: Final = re.compile(r'persistentvolumeclaim "(?P<claim>[^"]+)" (?:not found|is being deleted)')
_UNBOUND: Final = "unbound immediate PersistentVolumeClaims"


@dataclass(frozen=True)
class UnplacedReason:
    """Why nodes were rejected. `nodes` is None if the pod was rejected before any node was checked."""

    text: str
    nodes: int | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        found = _REASON.fullmatch(text)
        if found is None or found["nodes"] is None:
            return cls(text)
        return cls(found["text"], int(found["nodes"]))

    @property
    def checked(self) -> int:
        """How many kinds of checks the nodes had passed."""
        return next((place for place, check in enumerate(_CHECKS) if check.match(self.text)), len(_CHECKS))

    def __str__(self) -> str:
        return self.text if self.nodes is None else f"{self.nodes} {self.text}"


def unplaced_reasons(message: str) -> tuple[UnplacedReason, ...]:
    """Returns the reasons, first those whose nodes passed the most checks, as they are the closest to fitting. Empty if
    the message has another form."""
    text = " ".join(message.split())
    head = _HEAD.match(text)
    if head is None:
        return ()
    body = _TRIED_AFTERWARDS.sub("", text[head.end() :]).rstrip(". ")
    found = [UnplacedReason.read(part) for part in re.split(r", (?=\d+ )", body) if part]
    return tuple(sorted(found, key=lambda reason: (-reason.checked, reason.text)))


def in_short(message: str) -> str:
    """Returns the message with the reasons of nodes alone, which is the same for all attempts with the same outcome."""
    text = " ".join(message.split())
    head, found = _HEAD.match(text), unplaced_reasons(text)
    if head is None or not found:
        return text
    return f"{head[0].strip()} {', '.join(str(reason) for reason in found)}."


def lacks_volumes(message: str) -> bool:
    """Whether a pod lacks only volumes: no node that fits it has one or could get one."""
    found = unplaced_reasons(message)
    if not any(reason.text in _NO_VOLUME for reason in found):
        return False
    return all(reason.text in _NO_VOLUME or reason.checked < _PLACE for reason in found)


def claim_not_there(message: str) -> str | None:
    """Returns the claim that the scheduler did not find or found being deleted, or None."""
    found = _ABSENT.search(message)
    return found["claim"] if found else None


def awaits_binding(message: str) -> bool:
    """Whether an unbound claim keeps the scheduler from looking for a node."""
    return _UNBOUND in message
