"""What stands in a Lease: who operates a namespace. Read and written as client-go's leader election does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from neuronmodel_api import names

Object = dict[str, Any]

NAME: Final = "neuronmodel-operator"
"""One in each namespace in which an operator follows a NeuronModel."""
RELEASE: Final = f"{names.GROUP}/release"
"""The annotation that names the holder's release."""
DURATION_SECONDS: Final = 30


@dataclass(frozen=True)
class Holder:
    """An operator."""

    identity: str
    """Of one pod, whichever of its containers: one that was restarted goes on with what it held."""
    release: str
    """`<namespace>/<name>` of Helm's release; empty: unknown."""

    def is_of_release(self, other: "Holder") -> bool:
        return self.release != "" and self.release == other.release

    def __str__(self) -> str:
        return f"{self.identity} of release {self.release}" if self.release else self.identity


def holder(lease: Mapping[str, Any] | None) -> Holder | None:
    """None: nobody."""
    identity = _spec(lease).get("holderIdentity")
    if lease is None or not identity:
        return None
    return Holder(identity, (lease["metadata"].get("annotations") or {}).get(RELEASE, ""))


def duration_seconds(lease: Mapping[str, Any] | None) -> float:
    """How long after its record last changed it is still held."""
    return float(_spec(lease).get("leaseDurationSeconds") or DURATION_SECONDS)


def is_same_record(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Whether its holder did nothing to it between the two; somebody else's label is no sign of life."""
    return _spec(one) == _spec(other)


def taken(lease: Object | None, me: Holder, now: datetime) -> Object:
    """Held, or held on, by `me`; from what was read, so that its version protects it."""
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
    """Held by nobody: whoever waits may take it at once."""
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
