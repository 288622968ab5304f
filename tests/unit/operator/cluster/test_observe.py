"""Which Events are read, and when again; and what the first look at a NeuronModel leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Kind
from neuronmodel_operator.cluster.observe import EventsRead, ModelKey, Snapshot, look

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = ModelKey("demo", "smol", "uid-1")
SPEC = {
    "model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}},
    "parallelism": {"tensorParallelDegree": 1},
    "artifacts": {"template": {"size": "1Gi"}},
}
CONDITION = {"type": "Ready", "status": "True", "reason": "Ready", "message": "", "observedGeneration": 1}
STATUS = {"conditions": [CONDITION | {"lastTransitionTime": NOW.isoformat()}]}
Object = dict[str, Any]


@dataclass
class Cluster:
    """A NeuronModel with a Job and its pod, and what Events were asked for."""

    age: float
    has_pod: bool = True
    pod_state: Object = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return {"metadata": meta(KEY.name, KEY.uid, 100), "spec": SPEC} if kind is client.MODEL else None

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[Object, ...]:
        if kind is client.EVENT:
            self.asked.append(str(fields).removeprefix("involvedObject.uid="))
            return ({"metadata": meta("e", "e", 0), "type": "Warning", "involvedObject": {}, "reason": fields},)
        if kind is client.JOB:
            owner = [{"uid": KEY.uid, "kind": names.KIND, "name": KEY.name}]
            return ({"kind": "Job", "metadata": meta("smol-prepare-1", "job", self.age) | {"ownerReferences": owner}},)
        if kind is client.POD and labels == f"{names.LABEL_UID}={KEY.uid}" and self.has_pod:
            owner = [{"uid": "job", "kind": "Job", "name": "smol-prepare-1"}]
            pod = {"kind": "Pod", "metadata": meta("smol-prepare-1-x", "pod", self.age) | {"ownerReferences": owner}}
            return (pod | {"status": self.pod_state},)
        return ()


@dataclass
class Empty:
    """A NeuronModel alone, and by which labels others were asked for."""

    status: Object
    deleted: Object
    labels: list[str] = field(default_factory=list)

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        if kind is not client.MODEL:
            return None
        return {"metadata": meta(KEY.name, KEY.uid, 0) | self.deleted, "spec": SPEC, "status": self.status}

    async def list(
        self, kind: Kind, namespace: str | None, *, labels: str | None = None, fields: str | None = None
    ) -> tuple[Object, ...]:
        self.labels.append(labels or "")
        return ()


def meta(name: str, uid: str, age: float) -> Object:
    created = (NOW - timedelta(seconds=age)).isoformat()
    return {"name": name, "namespace": KEY.namespace, "uid": uid, "generation": 1, "creationTimestamp": created}


async def looked(cluster: Cluster, later: float = 0.0, known: Mapping[str, EventsRead] | None = None) -> Snapshot:
    cluster.asked.clear()
    found = await look(cluster, KEY, NOW + timedelta(seconds=later), known)  # type: ignore[arg-type]  # it only reads
    assert found is not None
    return found


def running(restarts: int = 0) -> Object:
    return {"containerStatuses": [{"restartCount": restarts, "state": {"running": {}}}]}


async def test_of_what_is_new_none_are_asked_for_and_another_look_is_due_soon() -> None:
    cluster = Cluster(age=1)
    assert (await looked(cluster)).fresh_seconds == 3.0
    assert cluster.asked == []


async def test_of_what_has_not_come_far_after_three_seconds_they_are_read() -> None:
    cluster = Cluster(age=3)
    found = await looked(cluster)
    assert cluster.asked == ["pod"], "the Job has made it"
    assert len(found.observed.events) == 1
    assert found.fresh_seconds == 10.0


async def test_of_a_pod_that_has_ended_they_are_read_once() -> None:
    cluster = Cluster(
        age=60,
        pod_state=running() | {"phase": "Succeeded"},
    )
    first = await looked(cluster)
    assert "pod" in cluster.asked
    await looked(cluster, 1000, first.events_read)
    assert "pod" not in cluster.asked


async def test_of_a_job_they_are_read_that_has_made_no_pod() -> None:
    cluster = Cluster(age=3, has_pod=False)
    await looked(cluster)
    assert cluster.asked == ["job"]


async def test_of_a_container_that_runs_they_are_read_at_once_as_they_say_that_its_image_was_pulled() -> None:
    cluster = Cluster(age=0, pod_state=running())
    await looked(cluster)
    assert cluster.asked == ["pod"]


async def test_they_are_read_again_after_ten_seconds_or_when_the_container_is_further() -> None:
    cluster = Cluster(age=60)
    first = await looked(cluster)
    again = await looked(cluster, 9, first.events_read)
    assert cluster.asked == []
    assert again.observed.events == first.observed.events
    cluster.pod_state = running()
    await looked(cluster, 9, again.events_read)
    assert cluster.asked == ["pod"]
    cluster.pod_state = running(restarts=1)
    await looked(cluster, 9, again.events_read)
    assert cluster.asked == ["pod"]
    await looked(cluster, 10, again.events_read)
    assert cluster.asked == ["pod"]


@pytest.mark.parametrize(
    ("is_first", "status", "deleted", "is_new"),
    [
        (True, {}, {}, True),
        (False, {}, {}, False),
        (True, STATUS, {}, False),
        (True, {}, {"deletionTimestamp": NOW.isoformat()}, False),
    ],
)
async def test_the_first_look_at_one_without_a_status_asks_for_what_that_needs(
    is_first: bool, status: Object, deleted: Object, is_new: bool
) -> None:
    cluster = Empty(status, deleted)
    found = await look(cluster, KEY, NOW, is_first=is_first)  # type: ignore[arg-type]  # it only reads
    assert found is not None
    assert found.is_new == is_new
    asked_who_serves = any("component" in labels for labels in cluster.labels)
    assert asked_who_serves == (found.observed.serving_workloads is not None) == (not is_new and not deleted)
