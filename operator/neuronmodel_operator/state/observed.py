"""Everything that exists for one NeuronModel, as one immutable value: what `reconcile` decides from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from neuronmodel_api.report import Report
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import NeuronModelStatus

Object = Mapping[str, Any]
"""A Kubernetes object as the API server gave it."""
_OF_THE_SERVER: Final = frozenset({0, 401, 404, 408, 409, 429})
"""Statuses, together with 5xx, whose answer says nothing about the request itself."""


@dataclass(frozen=True)
class ObservedModel:
    """The NeuronModel itself, parsed."""

    namespace: str
    name: str
    uid: str
    generation: int
    created_at: datetime
    deletion_requested_at: datetime | None
    annotations: Mapping[str, str]
    finalizers: tuple[str, ...]
    spec: NeuronModelSpec
    status: NeuronModelStatus


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim that the spec names, or the templated one."""

    name: str
    object: Object | None
    """None if there is no claim of that name."""
    volume: Object | None = None
    """The PersistentVolume that it is bound to, where the operator may read it."""


def mounted_claims(volumes: Iterable[Object]) -> frozenset[str]:
    """Returns the names of the claims among the volumes of a pod."""
    claims = (volume.get("persistentVolumeClaim") or {} for volume in volumes)
    return frozenset(str(claim["claimName"]) for claim in claims if "claimName" in claim)


@dataclass(frozen=True)
class Refusal:
    """A write of ours that currently fails: because of the API server, a webhook behind it, or an existing object.

    It is kept until the write succeeds or is no longer planned; `apply` retries it every few seconds, and at once when
    the manifest changes.
    """

    kind: str
    name: str
    reason: str
    """Forbidden (quota, admission), NamespaceTerminating, Invalid, NameTaken (an object of that name belongs to
    somebody else), Leaving (the object belongs to a former NeuronModel of this name), NoAnswer, or another reason of
    the API server."""
    message: str
    """The API server's message."""
    status: int = 400
    """The HTTP status; 0 if there was no answer."""
    verb: Literal["write", "delete"] = "write"
    since: datetime | None = None
    """When the write first failed."""
    retry_seconds: int | None = None
    """The interval between retries."""

    @property
    def is_of_the_server(self) -> bool:
        """Whether the answer says nothing about the request itself."""
        return is_of_the_server(self.status)


def is_of_the_server(status: int) -> bool:
    """Whether an HTTP status, or 0 for no answer, says nothing about the request itself: it may succeed later."""
    return status in _OF_THE_SERVER or status >= 500


@dataclass(frozen=True, slots=True)
class ServingWorkload:
    """A Deployment or a pod that serves, reduced to what matters to others: a namespace may have hundreds of them."""

    owner: str | None
    """The UID of its NeuronModel."""
    claim: str | None
    """The artifacts claim."""
    keys: tuple[str, ...]
    """The artifact keys and the source's revision that it names."""


@dataclass(frozen=True)
class Observed:
    """One look at the cluster. Children are those that carry the NeuronModel's UID and are owned by it."""

    model: ObservedModel
    deployment: Object | None = None
    service: Object | None = None
    jobs: tuple[Object, ...] = ()
    """Prepare and clean-up Jobs, including finished and terminating ones."""
    pods: tuple[Object, ...] = ()
    """Pods of the Jobs and of the Deployment, including ended and terminating ones, oldest first."""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """By name: the claims of source, artifacts and scratch, and those of the user's own volumes."""
    events: tuple[Object, ...] = ()
    """core/v1 Events of type Warning, and Normal ones of reason Pulled, about any child, and all Events about claims
    that are not bound, oldest first."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """By pod UID: the latest report of the container's current run, from the pod's answer or from the termination
    message of an ended container. Only reports whose pod UID and spec hash match the pod are included."""
    last_reports: Mapping[str, Report] = field(default_factory=dict)
    """By pod UID: the termination message of the run before a container's restart."""
    refusals: tuple[Refusal, ...] = ()
    namespace_terminating: bool = False
    serving_workloads: tuple[ServingWorkload, ...] | None = None
    """What serves in the namespace, for every NeuronModel including this one: its keys must stay on the volume. None if
    that was not looked up; then no Job is created in this pass."""
    other_models: tuple[Object, ...] = ()
    """The other NeuronModels of the namespace, which may use the same claim."""
