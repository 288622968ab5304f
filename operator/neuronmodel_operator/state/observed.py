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
"""Together with 5xx."""


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
    """None: there is none of that name."""
    volume: Object | None = None
    """The PersistentVolume it is bound to, where the operator may read it."""


def mounted_claims(volumes: Iterable[Object]) -> frozenset[str]:
    """Names of the claims among the volumes of a pod."""
    claims = (volume.get("persistentVolumeClaim") or {} for volume in volumes)
    return frozenset(str(claim["claimName"]) for claim in claims if "claimName" in claim)


@dataclass(frozen=True)
class Refusal:
    """A write of ours that was not answered with yes, as things stand: by the API server, a webhook behind it, or by
    what is there already.

    It stays among the observed until the write succeeds or is no longer planned; `apply` tries again by itself, every
    few seconds, and at once when the manifest changes.
    """

    kind: str
    name: str
    reason: str
    """Forbidden (quota, admission), NamespaceTerminating, Invalid, NameTaken (an object of that name belongs to
    somebody else), Leaving (to a former NeuronModel of this name), NoAnswer, or what else the API server called it."""
    message: str
    """The API server's own sentence."""
    status: int = 400
    """HTTP's; 0: no answer."""
    verb: Literal["write", "delete"] = "write"
    since: datetime | None = None
    """When it was first so."""
    retry_seconds: int | None = None
    """How often it is tried again."""

    @property
    def is_of_the_server(self) -> bool:
        """Whether the answer says nothing about what was asked for."""
        return self.status in _OF_THE_SERVER or self.status >= 500


@dataclass(frozen=True)
class Observed:
    """One look at the cluster. Children are those that carry the NeuronModel's UID and are owned by it."""

    model: ObservedModel
    deployment: Object | None = None
    service: Object | None = None
    jobs: tuple[Object, ...] = ()
    """Prepare and clean-up Jobs, finished and deleted-but-not-gone ones too."""
    pods: tuple[Object, ...] = ()
    """Pods of the Jobs and of the Deployment, ended and terminating ones too, oldest first."""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """By name: the source's, the artifacts', the scratch's, those of volumes of the user's own."""
    events: tuple[Object, ...] = ()
    """core/v1 Events of type Warning, and Normal ones of reason Pulled, about any child, and all about claims that are
    not bound, oldest first."""
    reports: Mapping[str, Report] = field(default_factory=dict)
    """By pod UID: the newest of what the pod answered, and what its ended container left as termination message.
    Only reports whose pod UID and spec hash match the pod are here. They are of the container's current run."""
    last_reports: Mapping[str, Report] = field(default_factory=dict)
    """By pod UID: what the run before a container's restart left as termination message."""
    refusals: tuple[Refusal, ...] = ()
    namespace_terminating: bool = False
    serving_workloads: tuple[Object, ...] | None = None
    """Deployments and pods that serve in the namespace, of every NeuronModel, this one too: their templates name keys
    that must stay on the volume. None: not looked up, and no Job is made in this pass."""
    other_models: tuple[Object, ...] = ()
    """The other NeuronModels of the namespace: they may use the same claim."""
