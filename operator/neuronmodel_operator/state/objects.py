"""Typed views of the Kubernetes objects that reconcile decides from. Nothing here decides anything."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Any

from neuronmodel_api import names
from neuronmodel_operator.state.annotations import FAILURES, INSTANCE_TYPE, TRIES_IMAGE, Change, Remembered
from neuronmodel_operator.state.observed import Object, mounted_claims


def parse_time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None


def _required_time(value: str) -> datetime:
    return datetime.fromisoformat(value)


@dataclass(frozen=True)
class Pull:
    """The image of a pod and the secrets it is pulled with."""

    image: str
    secrets: tuple[str, ...]


def pull_of(template: Mapping[str, Any]) -> Pull:
    """Returns the pull of a pod template, as it was rendered or as the API server has it."""
    spec = template["spec"]
    secrets = (str(secret.get("name")) for secret in spec.get("imagePullSecrets") or ())
    return Pull(str(spec["containers"][0]["image"]), tuple(secrets))


def selected_instance_type(template: Mapping[str, Any]) -> str | None:
    """Returns the instance type that a pod template selects."""
    selector: Mapping[str, str] = template["spec"].get("nodeSelector") or {}
    return selector.get(names.INSTANCE_TYPE_LABEL)


class JobState(StrEnum):
    ACTIVE = "Active"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True)
class Child:
    """The view of what all children have in common."""

    object: Object

    @property
    def _meta(self) -> Mapping[str, Any]:
        meta: Mapping[str, Any] = self.object["metadata"]
        return meta

    @property
    def name(self) -> str:
        return str(self._meta["name"])

    @property
    def uid(self) -> str:
        return str(self._meta["uid"])

    @cached_property
    def created_at(self) -> datetime:
        return _required_time(self._meta["creationTimestamp"])

    @property
    def is_terminating(self) -> bool:
        return "deletionTimestamp" in self._meta

    @property
    def annotations(self) -> Mapping[str, str]:
        return self._meta.get("annotations") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        return self._meta.get("labels") or {}

    @property
    def component(self) -> str:
        return self.labels.get(names.LABEL_COMPONENT, "")

    @property
    def remembered(self) -> Remembered:
        return Remembered(self.annotations)

    @property
    def change(self) -> Change | None:
        return self.remembered.change

    @property
    def status(self) -> Mapping[str, Any]:
        return self.object.get("status") or {}

    def true_condition(self, kind: str, status: str = "True") -> Mapping[str, Any] | None:
        conditions = self.status.get("conditions") or ()
        return next((c for c in conditions if c["type"] == kind and c["status"] == status), None)


@dataclass(frozen=True)
class JobView(Child):
    @property
    def inputs_hash(self) -> str:
        return self.annotations.get(names.ANNOTATION_INPUTS_HASH, "")

    @property
    def template_hash(self) -> str:
        return self.annotations.get(names.ANNOTATION_TEMPLATE_HASH, "")

    @property
    def attempt(self) -> int:
        return self.remembered.number(names.ANNOTATION_ATTEMPT, 1)

    @property
    def failures(self) -> int:
        return self.remembered.number(FAILURES, 0)

    @property
    def instance_type(self) -> str | None:
        """The instance type that it prepares for; versions that did not record it selected such nodes."""
        return self.annotations.get(INSTANCE_TYPE, selected_instance_type(self.object["spec"]["template"]))

    @property
    def tries_image(self) -> str | None:
        """The image that it runs to test, before a worker that answers is replaced by one with it."""
        return self.annotations.get(TRIES_IMAGE)

    @property
    def pull(self) -> Pull:
        return pull_of(self.object["spec"]["template"])

    @property
    def retried(self) -> str:
        return self.annotations.get(names.ANNOTATION_RETRIED, "")

    @property
    def state(self) -> JobState:
        if self.true_condition("Complete"):
            return JobState.SUCCEEDED
        return JobState.FAILED if self.true_condition("Failed") else JobState.ACTIVE

    @property
    def ended_at(self) -> datetime | None:
        ended = self.true_condition("Complete") or self.true_condition("Failed")
        return parse_time(ended.get("lastTransitionTime")) or self.created_at if ended else None


@dataclass(frozen=True)
class Ended:
    """How a container's run ended."""

    exit_code: int
    reason: str
    """Completed, Error, OOMKilled, …"""
    message: str
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class SchedulerError:
    """The error of a scheduler that failed after it had found a node."""

    message: str
    since: datetime | None


@dataclass(frozen=True)
class PodView(Child):
    @property
    def template_hash(self) -> str:
        return self.annotations.get(names.ANNOTATION_TEMPLATE_HASH, "")

    @property
    def job_uid(self) -> str:
        return self.labels.get("batch.kubernetes.io/controller-uid", "")

    @property
    def node(self) -> str | None:
        name = self.object.get("spec", {}).get("nodeName")
        return str(name) if name else None

    @property
    def memory_limit(self) -> str | None:
        """Of the worker's container, as its manifest has it."""
        containers = self.object.get("spec", {}).get("containers") or ()
        worker: Mapping[str, Any] = next((each for each in containers if each["name"] == names.CONTAINER), {})
        limit = ((worker.get("resources") or {}).get("limits") or {}).get("memory")
        return str(limit) if limit else None

    @property
    def phase(self) -> str:
        return str(self.status.get("phase", "Pending"))

    @property
    def has_ended(self) -> bool:
        return self.phase in ("Succeeded", "Failed")

    @property
    def scheduled_at(self) -> datetime | None:
        condition = self.true_condition("PodScheduled")
        return parse_time(condition.get("lastTransitionTime")) if condition else None

    @property
    def unschedulable(self) -> str | None:
        """The scheduler's message if the pod is unschedulable."""
        condition = self.true_condition("PodScheduled", "False")
        return condition.get("message", "") if condition and condition.get("reason") == "Unschedulable" else None

    @property
    def scheduler_error(self) -> "SchedulerError | None":
        """The error of the scheduler after it had found a node."""
        condition = self.true_condition("PodScheduled", "False")
        if condition is None or condition.get("reason") != "SchedulerError":
            return None
        return SchedulerError(condition.get("message", ""), parse_time(condition.get("lastTransitionTime")))

    @property
    def scheduling_gates(self) -> tuple[str, ...]:
        """Names of the pod's scheduling gates."""
        return tuple(str(gate["name"]) for gate in self.object.get("spec", {}).get("schedulingGates") or ())

    @property
    def claims(self) -> frozenset[str]:
        """Names of the claims that it mounts."""
        return mounted_claims(self.object.get("spec", {}).get("volumes") or ())

    @property
    def is_seen(self) -> bool:
        """Whether a scheduler has handled the pod: it has found a node or said why there is none."""
        conditions = self.status.get("conditions") or ()
        return self.node is not None or any(c["type"] == "PodScheduled" for c in conditions)

    @property
    def scheduler(self) -> str:
        return str(self.object.get("spec", {}).get("schedulerName") or "default-scheduler")

    @property
    def resource_claims(self) -> tuple[str, ...]:
        """Names of its resource claims, or of the templates that they are made from."""
        claims = self.object.get("spec", {}).get("resourceClaims") or ()
        return tuple(c.get("resourceClaimName") or f"one of {c.get('resourceClaimTemplateName')}" for c in claims)

    @property
    def ready_at(self) -> datetime | None:
        """When the pod became ready; None if it isn't."""
        condition = self.true_condition("Ready")
        return parse_time(condition.get("lastTransitionTime")) or self.created_at if condition else None

    @cached_property
    def _container(self) -> Mapping[str, Any]:
        statuses = self.status.get("containerStatuses") or ()
        return next((status for status in statuses if status["name"] == names.CONTAINER), {})

    @property
    def run(self) -> int:
        """The number of the container's current run, from 0."""
        return int(self._container.get("restartCount", 0))

    @property
    def run_id(self) -> str:
        return f"{self.uid}/{self.run}"

    @property
    def image(self) -> str | None:
        containers = self.object.get("spec", {}).get("containers") or ()
        return next((str(c["image"]) for c in containers if c["name"] == names.CONTAINER), None)

    @property
    def waiting(self) -> tuple[str, str]:
        """Reason and message of a container that is waiting; both are empty if it isn't."""
        waiting = self._container.get("state", {}).get("waiting") or {}
        return waiting.get("reason", ""), waiting.get("message", "")

    @property
    def running_since(self) -> datetime | None:
        return parse_time((self._container.get("state", {}).get("running") or {}).get("startedAt"))

    @property
    def ended(self) -> Ended | None:
        """The end of the current run; None if it is running or has not started."""
        if self.running_since:
            return None
        return _ended(self._container.get("state")) or _ended(self._container.get("lastState"))

    @property
    def former_end(self) -> Ended | None:
        """The end of the run before the current one."""
        return _ended(self._container.get("lastState")) if self.running_since else None

    @property
    def former_run(self) -> "FormerRun":
        """The pod as it was when the run before the current one had ended."""
        statuses = self.status.get("containerStatuses") or ()
        former = {**self._container, "restartCount": self.run - 1, "state": self._container.get("lastState") or {}}
        others = [status for status in statuses if status["name"] != names.CONTAINER]
        return FormerRun({**self.object, "status": {**self.status, "containerStatuses": [*others, former]}})

    @property
    def started_at(self) -> datetime | None:
        """When the current run of the container started, ended or not."""
        return self.running_since or (self.ended.started_at if self.ended else None)

    @property
    def ever_started(self) -> bool:
        return self.started_at is not None or self.former_end is not None or self.has_ended


@dataclass(frozen=True)
class FormerRun(PodView):
    """A pod whose current run is the one before; its report is the former one."""


def _ended(state: Mapping[str, Any] | None) -> Ended | None:
    terminated = (state or {}).get("terminated")
    if not terminated:
        return None
    return Ended(
        exit_code=int(terminated.get("exitCode", 0)),
        reason=terminated.get("reason", ""),
        message=terminated.get("message", ""),
        started_at=parse_time(terminated.get("startedAt")),
        finished_at=parse_time(terminated.get("finishedAt")),
    )


@dataclass(frozen=True)
class ClaimView(Child):
    """A PersistentVolumeClaim."""

    @property
    def _spec(self) -> Mapping[str, Any]:
        return self.object.get("spec") or {}

    @property
    def is_pending(self) -> bool:
        return self.status.get("phase") == "Pending"

    @property
    def is_lost(self) -> bool:
        return self.status.get("phase") == "Lost"

    @property
    def storage_class(self) -> str:
        """The name of the storage class; empty if there is none."""
        return str(self._spec.get("storageClassName") or "")

    @property
    def size(self) -> str:
        """The requested size."""
        return str((self._spec.get("resources") or {}).get("requests", {}).get("storage", ""))

    @property
    def access_modes(self) -> tuple[str, ...]:
        return tuple(self._spec.get("accessModes") or ())

    @property
    def volume(self) -> str:
        """The volume that it is bound to or names; empty if there is none."""
        return str(self._spec.get("volumeName") or "")

    @property
    def selected_node(self) -> str | None:
        """The node for which its volume is to be provisioned."""
        return self.annotations.get("volume.kubernetes.io/selected-node")


@dataclass(frozen=True)
class EventView:
    """A core/v1 Event about a child, or about a claim."""

    object: Object

    @property
    def reason(self) -> str:
        return str(self.object.get("reason", ""))

    @property
    def message(self) -> str:
        return str(self.object.get("message", "")).strip()

    @property
    def source(self) -> str:
        """The component that reported the Event."""
        component = (self.object.get("source") or {}).get("component")
        return str(component or self.object.get("reportingComponent") or "")

    @property
    def about_uid(self) -> str:
        return str(self.object.get("involvedObject", {}).get("uid", ""))

    @property
    def at(self) -> datetime:
        """The time of its latest occurrence."""
        series = self.object.get("series") or {}
        moment = series.get("lastObservedTime") or self.object.get("lastTimestamp") or self.object.get("eventTime")
        return _required_time(moment or self.object["metadata"]["creationTimestamp"])
