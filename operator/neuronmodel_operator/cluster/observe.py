"""Observes everything that exists for one NeuronModel, as one immutable value.

Watches decide *when* to look, and a look reads the NeuronModel itself live, its children from mirrors of what watches
said (`mirrored_api` has which, and why). A look is taken only when something changed, when the plan asked for it, or
when objects that are not settled were last looked at too long ago: Events are not watched. The frequent passes that
only fetch reports of workers reuse the last look (`Snapshot.fresh_seconds`).
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import ValidationError

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.spec import NeuronModelSpec
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import ApiError, ReadsAndWrites
from neuronmodel_operator.decide.keys_in_use import serving_workload
from neuronmodel_operator.state.observed import (
    Claim,
    Object,
    Observed,
    ObservedModel,
    ServingWorkload,
    mounted_claims,
)

SETTLED_FRESH_SECONDS: Final = 300.0
"""Without anything that is not settled. What rests altogether is not looked at: mirrors and NeuronModels are listed
again as often as that, so that a change that every watch missed is found."""
UNSETTLED_FRESH_SECONDS: Final = 10.0
"""Refused pods, mount failures and the reasons why a claim has no volume exist only as Events, which are not
watched."""
STUCK_FRESH_SECONDS: Final = 60.0
"""For objects that have been unsettled for longer than STUCK_AFTER_SECONDS."""
STUCK_AFTER_SECONDS: Final = 600.0
SETTLING_SECONDS: Final = 60.0
"""For this long after a pod became ready its Events are still read."""
EVENTS_AFTER_SECONDS: Final = 3.0
"""An object that is younger is on its way: nothing is said of it that matters yet, and each question for Events makes
the API server go through all of a namespace."""


class OutdatedLookError(ApiError):
    """A look showed an older NeuronModel than one before."""

    def __init__(self) -> None:
        super().__init__(0, "Outdated", "the API server is behind: it shows the NeuronModel as it was before")


@dataclass(frozen=True)
class EventsRead:
    """Kubernetes' Events about one object, as they were read."""

    at: datetime
    state: str
    """How far the object was: when it is further, they are read again."""
    events: tuple[Object, ...]


@dataclass(frozen=True)
class ModelKey:
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Snapshot:
    """The result of one look, with what `apply` needs in addition."""

    observed: Observed
    """The observed objects, without reports and refusals."""
    raw: Object
    """The NeuronModel as the API server returned it."""
    askable: frozenset[str] = frozenset()
    """UIDs of the pods whose Job or ReplicaSet exists and is ours: only these are asked for reports."""
    taken: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of objects that have a child's name and belong to somebody else."""
    being_removed: frozenset[tuple[str, str]] = frozenset()
    """(kind, name) of children of a former NeuronModel of that name, which the garbage collector is about to remove."""
    fresh_seconds: float = SETTLED_FRESH_SECONDS
    events_read: Mapping[str, EventsRead] = field(default_factory=dict)
    """By the UID of the object that they are about."""
    is_new: bool = False
    """It has no status, and was looked at for that alone."""

    def with_model(self, raw: Object) -> "Snapshot":
        """Returns the snapshot after a write to the NeuronModel that was answered with `raw`."""
        return replace(self, raw=raw, observed=replace(self.observed, model=parse_model(raw)))


async def look(
    api: ReadsAndWrites,
    key: ModelKey,
    now: datetime,
    known: Mapping[str, EventsRead] | None = None,
    *,
    is_first: bool = False,
) -> Snapshot | None:
    """Returns None if the NeuronModel is gone. `known`: Events about children that were read before, which are not read
    again for a while. With `is_first`, of a NeuronModel that has no status only what that needs is read. Raises
    client.ApiError, and pydantic.ValidationError for a spec that this version can't read."""
    raw = await api.get(client.MODEL, key.namespace, key.name)
    if raw is None or raw["metadata"]["uid"] != key.uid:
        return None
    model = parse_model(raw)
    is_new = is_first and not model.status.conditions and model.deletion_requested_at is None
    by_uid = f"{names.LABEL_UID}={key.uid}"
    deployment, service, jobs, replica_sets, pods, claims = await asyncio.gather(
        api.get(client.DEPLOYMENT, key.namespace, names.deployment(key.name)),
        api.get(client.SERVICE, key.namespace, names.service(key.name)),
        api.list(client.JOB, key.namespace, labels=by_uid),
        api.list(client.REPLICA_SET, key.namespace, labels=by_uid),
        api.list(client.POD, key.namespace, labels=by_uid),
        _claims(api, model),
    )
    named = [child for child in (deployment, service, _templated(claims, model)) if child is not None]
    jobs = tuple(job for job in jobs if is_made_for(job, key))
    own_deployment = deployment if deployment and is_owned(deployment, {key.uid}) else None
    replica_sets = owned(replica_sets, _uids([own_deployment] if own_deployment else []))
    pods = tuple(pod for pod in pods if _is_pod_of(pod, key))
    makers = [*jobs, *replica_sets, *pods]
    # Claims do not matter as long as nothing mounts them.
    mounted = [claim.object for claim in claims.values() if claim.object and makers]
    unsettled = [child for child in (*makers, *mounted) if not is_settled(child, model, now)]
    heard = [child for child in unsettled if not _has_made_its_pods(child, pods)]
    events_read, terminating, others, serving_workloads = await asyncio.gather(
        _events(api, key.namespace, (each for each in heard if _may_have_events(each, now)), known or {}, now),
        _namespace_terminating(api, model),
        _other_models(api, model),
        _nobody() if is_new else _serving_workloads(api, model, jobs),
    )
    observed = Observed(
        model=model,
        deployment=own_deployment,
        service=service if service and is_owned(service, {key.uid}) else None,
        jobs=_oldest_first(jobs),
        pods=_oldest_first(pods),
        claims=claims,
        events=tuple(sorted((event for read in events_read.values() for event in read.events), key=_event_time)),
        namespace_terminating=terminating,
        serving_workloads=serving_workloads,
        other_models=others,
    )
    return Snapshot(
        observed=observed,
        raw=raw,
        askable=frozenset(_uids(owned(pods, _uids(owned(jobs, {key.uid})) | _uids(replica_sets)))),
        taken=frozenset((o["kind"], o["metadata"]["name"]) for o in named if standing(o, key) == "Foreign"),
        being_removed=frozenset((o["kind"], o["metadata"]["name"]) for o in named if standing(o, key) == "Former"),
        fresh_seconds=_fresh_seconds(unsettled, heard, now),
        events_read=events_read,
        is_new=is_new,
    )


def parse_model(raw: Object) -> ObservedModel:
    """Raises pydantic.ValidationError for a spec that this version can't read; unreadable fields of the status are
    dropped and derived again."""
    meta = raw["metadata"]
    deletion = meta.get("deletionTimestamp")
    return ObservedModel(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        generation=meta["generation"],
        created_at=datetime.fromisoformat(meta["creationTimestamp"]),
        deletion_requested_at=datetime.fromisoformat(deletion) if deletion else None,
        annotations=meta.get("annotations") or {},
        finalizers=tuple(meta.get("finalizers") or ()),
        spec=NeuronModelSpec.model_validate(raw["spec"]),
        status=_parse_status(raw.get("status") or {}),
    )


def _parse_status(raw: Mapping[str, Any]) -> NeuronModelStatus:
    """Parses a status that another version may have written. Fields that this version can't read are dropped, so that
    the recorded starts survive a rollback."""
    try:
        return NeuronModelStatus.model_validate(raw)
    except ValidationError as error:
        unread = {place["loc"][0] for place in error.errors()}
        return _parse_status({name: value for name, value in raw.items() if name not in unread})


def claim_names(model: ObservedModel) -> frozenset[str]:
    """Returns the names of all claims that the spec names or implies."""
    spec = model.spec
    named = (
        spec.model.source.persistent_volume_claim,
        spec.artifacts.persistent_volume_claim,
        spec.scratch.persistent_volume_claim,
    )
    templated = {names.templated_claim(model.name)} if spec.artifacts.template else set()
    return mounted_claims(spec.worker.volumes) | {claim.claim_name for claim in named if claim} | templated


def is_owned(child: Object, uids: Iterable[str]) -> bool:
    return any(owner["uid"] in uids for owner in child["metadata"].get("ownerReferences", ()))


def is_made_for(job: Object, key: ModelKey) -> bool:
    """Whether the Job belongs to this NeuronModel, by its owner. The clean-up Job has none: garbage collection would
    remove an owned Job before it has run."""
    if job["metadata"].get("ownerReferences"):
        return is_owned(job, {key.uid})
    name: str = job["metadata"]["name"]
    return name == names.cleanup_job(key.name, key.uid)


def _is_pod_of(pod: Object, key: ModelKey) -> bool:
    """Whether the pod belongs to this NeuronModel, by its controller's name, which remains when the controller itself
    is gone and its pod lingers."""
    owners = pod["metadata"].get("ownerReferences", ())
    return any(o["kind"] in ("Job", "ReplicaSet") and names.is_workload_of(key.name, o["name"]) for o in owners)


def standing(child: Object, key: ModelKey) -> Literal["Own", "Former", "Foreign"]:
    """Returns whose an object is. Own includes what an earlier NeuronModel of that name left: a claim, or children
    orphaned by its deletion."""
    if is_owned(child, {key.uid}):
        return "Own"
    labels = child["metadata"].get("labels", {})
    if labels.get(names.LABEL_MANAGED_BY) != names.MANAGED_BY or labels.get(names.LABEL_MODEL) != key.name:
        return "Foreign"
    return "Former" if child["metadata"].get("ownerReferences") else "Own"


def _templated(claims: Mapping[str, Claim], model: ObservedModel) -> Object | None:
    claim = claims.get(names.templated_claim(model.name)) if model.spec.artifacts.template else None
    return claim.object if claim else None


def owned(children: Iterable[dict[str, Any]], uids: Iterable[str]) -> tuple[dict[str, Any], ...]:
    return tuple(child for child in children if is_owned(child, uids))


def is_settled(child: Object, model: ObservedModel, now: datetime) -> bool:
    """Whether Events about the object no longer matter."""
    status = child.get("status", {})
    is_serving = model.status.is_ready
    match child["kind"]:
        case "PersistentVolumeClaim":
            return is_serving or status.get("phase") == "Bound"
        case "Job":
            return _is_done(child)
        case "Pod":
            return is_serving and _ready_for(child, now) > SETTLING_SECONDS
        case _:
            return is_serving


def _is_done(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions", ())
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def _ready_for(pod: Object, now: datetime) -> float:
    """Returns for how many seconds the pod has been ready; negative if it isn't. An ended pod counts as ready
    forever."""
    status = pod.get("status", {})
    if status.get("phase") in ("Succeeded", "Failed"):
        return float("inf")
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "True" and condition.get("lastTransitionTime"):
            return (now - datetime.fromisoformat(condition["lastTransitionTime"])).total_seconds()
    return -1.0


def _fresh_seconds(unsettled: Iterable[Object], heard: Iterable[Object], now: datetime) -> float:
    ages = [_age(child, now) for child in unsettled]
    if not ages:
        return SETTLED_FRESH_SECONDS
    if any(not _may_have_events(child, now) for child in heard):
        return EVENTS_AFTER_SECONDS
    return UNSETTLED_FRESH_SECONDS if min(ages) < STUCK_AFTER_SECONDS else STUCK_FRESH_SECONDS


def _has_made_its_pods(child: Object, pods: Iterable[Object]) -> bool:
    """Whether a Job or a ReplicaSet has as many pods as it wants: then nothing that is said of it matters."""
    if child["kind"] not in ("Job", "ReplicaSet"):
        return False
    wanted = child.get("spec", {}).get("replicas", 1) if child["kind"] == "ReplicaSet" else 1
    live = (pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"))
    return sum(is_owned(pod, [child["metadata"]["uid"]]) for pod in live) >= wanted


def _age(child: Object, now: datetime) -> float:
    return (now - datetime.fromisoformat(child["metadata"]["creationTimestamp"])).total_seconds()


def _may_have_events(child: Object, now: datetime) -> bool:
    """Whether something that matters may have been said of an object: that an image was pulled, once its container
    runs, or what is in its way."""
    return _age(child, now) >= EVENTS_AFTER_SECONDS or bool(_state(child))


def _state(child: Object) -> str:
    """Returns what a pod's container has come to, as far as Events follow from it; empty before it runs."""
    containers = child.get("status", {}).get("containerStatuses", ()) if child["kind"] == "Pod" else ()
    return " ".join(
        f"{each['restartCount']}" for each in containers if {"running", "terminated"} & set(each.get("state") or ())
    )


async def _claims(api: ReadsAndWrites, model: ObservedModel) -> dict[str, Claim]:
    wanted = sorted(claim_names(model))
    found = await asyncio.gather(*(api.get(client.CLAIM, model.namespace, name) for name in wanted))
    return {name: Claim(name=name, object=claim) for name, claim in zip(wanted, found, strict=True)}


async def _events(
    api: ReadsAndWrites,
    namespace: str,
    children: Iterable[Object],
    known: Mapping[str, EventsRead],
    now: datetime,
) -> dict[str, EventsRead]:
    """Lists the Events of each child by its UID: the API server has no index for it, but all Events of a namespace are
    too many to transfer."""

    async def of(child: Object) -> EventsRead:
        uid, state = child["metadata"]["uid"], _state(child)
        former = known.get(uid)
        is_over = child.get("status", {}).get("phase") in ("Succeeded", "Failed")
        if (
            former
            and former.state == state
            and (is_over or (now - former.at).total_seconds() < UNSETTLED_FRESH_SECONDS)
        ):
            return former
        found = await api.list(client.EVENT, namespace, fields=f"involvedObject.uid={uid}")
        return EventsRead(now, state, tuple(event for event in found if _is_relevant(event)))

    asked = list(children)
    read = await asyncio.gather(*map(of, asked))
    return {child["metadata"]["uid"]: each for child, each in zip(asked, read, strict=True)}


def _is_relevant(event: Object) -> bool:
    """Whether an Event is of interest. For a claim, Normal Events are too: they say that there is no volume and no
    class to provision one."""
    is_about_claim = event.get("involvedObject", {}).get("kind") == "PersistentVolumeClaim"
    return is_about_claim or event.get("type") == "Warning" or event.get("reason") == "Pulled"


async def _namespace_terminating(api: ReadsAndWrites, model: ObservedModel) -> bool:
    """Looked up only for a NeuronModel that is being deleted: nothing else depends on it."""
    if model.deletion_requested_at is None:
        return False
    namespace = await api.get(client.NAMESPACE, None, model.namespace)
    return namespace is None or "deletionTimestamp" in namespace["metadata"]


def may_need_a_job(model: ObservedModel, jobs: Iterable[Object]) -> bool:
    """Whether a Job may have to be created, judged before anything is decided; if this comes too late, the next look
    finds it."""
    if model.deletion_requested_at is not None:
        return names.FINALIZER in model.finalizers
    if not all(_is_done(job) for job in jobs):
        return False
    artifacts = model.status.condition(ConditionType.ARTIFACTS_READY)
    return artifacts is None or (artifacts.status, artifacts.observed_generation) != ("True", model.generation)


async def _serving_workloads(
    api: ReadsAndWrites, model: ObservedModel, jobs: Iterable[Object]
) -> tuple[ServingWorkload, ...] | None:
    """Looked up only where a Job may be created, as the Job has to know which artifacts are in use."""
    if not may_need_a_job(model, jobs):
        return None
    labels = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{names.LABEL_COMPONENT}={names.COMPONENT_SERVE}"
    deployments, pods = await asyncio.gather(
        api.list(client.DEPLOYMENT, model.namespace, labels=labels),
        api.list(client.POD, model.namespace, labels=labels),
    )
    live = (pod for pod in pods if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"))
    return tuple(map(serving_workload, (*deployments, *live)))


async def _nobody() -> None:
    """No Job is made, so nobody is asked for."""


async def _other_models(api: ReadsAndWrites, model: ObservedModel) -> tuple[Object, ...]:
    """Looked up only for a NeuronModel that is being deleted: what it alone used is deleted with it."""
    if model.deletion_requested_at is None:
        return ()
    models = await api.list(client.MODEL, model.namespace)
    return tuple(other for other in models if other["metadata"]["uid"] != model.uid)


def _uids(objects: Iterable[Object]) -> set[str]:
    return {o["metadata"]["uid"] for o in objects}


def _oldest_first(objects: Iterable[Object]) -> tuple[Object, ...]:
    return tuple(sorted(objects, key=lambda o: (o["metadata"]["creationTimestamp"], o["metadata"]["name"])))


def _event_time(event: Object) -> str:
    """Returns the time as text: RFC 3339 in UTC sorts as text, and whole seconds are precise enough."""
    series = event.get("series") or {}
    moment = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(moment or event["metadata"]["creationTimestamp"])[:19]
