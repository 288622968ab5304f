"""The content of a Lease: who operates a namespace. It is read and written as client-go's leader election does."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from neuronmodel_api import names

Object = dict[str, Any]

NAME: Final = "neuronmodel-operator"
"""There is one in each namespace in which an operator follows a NeuronModel."""
RELEASE: Final = f"{names.GROUP}/release"
"""The annotation that names the holder's release."""
DURATION_SECONDS: Final = 30


@dataclass(frozen=True)
class Holder:
    """The operator that holds a Lease."""

    identity: str
    """The pod, whichever of its containers runs: a restarted container keeps the Leases of the one before."""
    release: str
    """`<namespace>/<name>` of the Helm release; empty if unknown."""

    def is_of_release(self, other: "Holder") -> bool:
        return self.release != "" and self.release == other.release

    def __str__(self) -> str:
        return f"{self.identity} of release {self.release}" if self.release else self.identity


def holder(lease: Mapping[str, Any] | None) -> Holder | None:
    """Returns the holder, or None if nobody holds the Lease."""
    identity = _spec(lease).get("holderIdentity")
    if lease is None or not identity:
        return None
    return Holder(identity, (lease["metadata"].get("annotations") or {}).get(RELEASE, ""))


def duration_seconds(lease: Mapping[str, Any] | None) -> float:
    """Returns how many seconds after its last change the Lease is still held."""
    return float(_spec(lease).get("leaseDurationSeconds") or DURATION_SECONDS)


def is_same_record(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether the holder did not update it between the two reads; a label that somebody else set does not count."""
    return _spec(one) == _spec(other)


def taken(lease: Object | None, me: Holder, now: datetime) -> Object:
    """Returns the Lease as acquired or renewed by `me`; it is based on the version that was read, so a concurrent
    change is detected."""
    former = _spec(lease)
    moment = _micro_time(now)
    is_mine = former.get("holderIdentity") == me.identity
    spec = {
        "holderIdentity": me.identity,
        "leaseDurationSeconds": DURATION_SECONDS,
        "acquireTime": former.get("acquireTime", moment) if is_mine else moment,
        "renewTime": moment,
        "leaseTransitions": (former.get("leaseTransitions") or 0) + (0 if is_mine or not former else 1),
    }
    metadata: Object = dict(lease["metadata"]) if lease else {"name": NAME}
    metadata["annotations"] = (metadata.get("annotations") or {}) | {RELEASE: me.release}
    return _lease(metadata, spec)


def released(lease: Object, now: datetime) -> Object:
    """Returns the Lease without a holder, so that the next operator may take it at once."""
    spec = _spec(lease) | {"holderIdentity": "", "renewTime": _micro_time(now)}
    return _lease(lease["metadata"], spec)


def _lease(metadata: Mapping[str, Any], spec: Mapping[str, Any]) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": dict(metadata),
        "spec": dict(spec),
    }


def _spec(lease: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict((lease or {}).get("spec") or {})


def _micro_time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
