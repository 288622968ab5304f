"""Pods that cannot be made, placed, started or kept alive: a reason each, and recovery without deleting the model."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.layout import LAYOUT, PAUSE_IMAGE, REGISTRY
from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType

from . import outages
from .capital import MODEL
from .chart import Chart
from .chat import completion
from .cluster import Cluster, Object
from .neuronmodels import ON_TRN2, Applied, neuron_model
from .room import Room, claim
from .scenarios import Scenario, apply_all, assert_explained
from .waiting import eventually

ONE_DEVICE = {"limits": {names.NEURON_RESOURCE: "1"}, "requests": {names.NEURON_RESOURCE: "1", "cpu": "20m"}}
ABSENT_IMAGE = f"{REGISTRY}/neuronmodel/none:1"
FULL_VOLUME = "named-small-0"
"""Of a class of its own: `too-small`, whose template takes whatever small volume is free, cannot get it first."""
UNMOUNTABLE = "e2e-unmountable"
UNMOUNTABLE_FOLDER = LAYOUT.volumes / UNMOUNTABLE
FILLER = LAYOUT.volumes / FULL_VOLUME / "filler"


def too_small(room: Room) -> Object:
    """64 MiB for shards of 270 MB."""
    artifacts = {"template": {"size": "60Mi", "storageClassName": "local-small"}}
    return neuron_model("too-small", MODEL, strategy="ShardOnCompile", artifacts=artifacts)


def full(room: Room) -> Object:
    fill(room.claim_volume("full", FULL_VOLUME) / FILLER.name)
    named = {"template": None, "persistentVolumeClaim": {"claimName": "full"}}
    return neuron_model("full", room.tiny("full"), artifacts=named)


def fill(file: Path) -> None:
    """Fills the file until nothing else fits on the volume."""
    block = bytes(1 << 16)
    with file.open("wb", buffering=0) as opened:
        try:
            while opened.write(block) == len(block):
                pass
        except OSError:
            return


def make_space(room: Room, model: Applied) -> None:
    FILLER.unlink()
    model.retry()


def image_absent(room: Room) -> Object:
    return neuron_model(
        "image-absent", room.tiny("image-absent"), worker={"image": "localhost:5000/neuronmodel/none:1"}
    )


def no_device_left(room: Room) -> Object:
    """Not before they are held: pods of a test before this one may be about to give some back."""
    room.cluster.apply(holder_of_all_devices(room.namespace))
    eventually(lambda: holds_all_devices(room), what="all devices to be held")
    return neuron_model("no-device", room.tiny("no-device"), worker={**ON_TRN2, "resources": ONE_DEVICE})


def holds_all_devices(room: Room) -> bool:
    holder = room.cluster.get("Pod", "holder", room.namespace)
    return holder is not None and holder["status"].get("phase") == "Running"


def holder_of_all_devices(namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "holder", "namespace": namespace},
        "spec": {
            **ON_TRN2,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "holder",
                    "image": PAUSE_IMAGE,
                    "imagePullPolicy": "Never",
                    "resources": {"limits": {names.NEURON_RESOURCE: "16"}},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


def unmountable(room: Room) -> Object:
    """The claim is bound to a volume whose folder is not there."""
    wanted = claim(UNMOUNTABLE, room.namespace, storage_class=UNMOUNTABLE, size="1Gi")
    wanted["spec"]["volumeName"] = UNMOUNTABLE
    room.cluster.apply(unmountable_volume(), wanted)
    named = {"template": None, "persistentVolumeClaim": {"claimName": UNMOUNTABLE}}
    return neuron_model("unmountable", room.tiny("unmountable"), artifacts=named)


def unmountable_volume() -> Object:
    on_plain = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["plain"]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": UNMOUNTABLE},
        "spec": {
            "storageClassName": UNMOUNTABLE,
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "local": {"path": str(UNMOUNTABLE_FOLDER)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_plain]}]}},
        },
    }


def out_of_memory(room: Room) -> Object:
    """Enough for the Job, which has its own resources; too little to load PyTorch."""
    return neuron_model("memory", room.tiny("memory"), worker={"resources": {"limits": {"memory": "80Mi"}}})


def remove_limit(room: Room, model: Applied) -> None:
    model.change(worker={"resources": {"limits": None}})


SCENARIOS = (
    Scenario(
        "too-small",
        too_small,
        "ArtifactsVolumeFull",
        ("bytes", "claim too-small-artifacts", "Enlarge"),
        lambda room, model: model.change(sharding={"strategy": "ShardOnLoad"}),
    ),
    Scenario("full", full, "ArtifactsVolumeFull", ("bytes", "claim full", "delete"), make_space),
    Scenario(
        "image-absent",
        image_absent,
        "ImagePullFailed",
        (ABSENT_IMAGE,),
        lambda room, model: model.change(worker={"image": None}),
    ),
    Scenario(
        "no-device",
        no_device_left,
        "Unschedulable",
        ("Insufficient aws.amazon.com/neuron",),
        lambda room, model: room.cluster.delete("Pod", "holder", room.namespace, grace_seconds=0),
    ),
    Scenario(
        "unmountable",
        unmountable,
        "VolumeMountFailed",
        (str(UNMOUNTABLE_FOLDER),),
        lambda room, model: UNMOUNTABLE_FOLDER.mkdir(mode=0o755),
    ),
    Scenario("memory", out_of_memory, "WorkerCrashed", ("memory", "spec.worker.resources"), remove_limit),
)


@pytest.fixture(scope="module", autouse=True)
def lent(cluster: Cluster) -> Iterator[None]:
    """What the scenarios put on this machine goes after the room."""
    yield
    FILLER.unlink(missing_ok=True)
    cluster.delete("PersistentVolume", UNMOUNTABLE)
    shutil.rmtree(UNMOUNTABLE_FOLDER, ignore_errors=True)


def remove_unmountable(cluster: Cluster) -> None:
    cluster.delete("PersistentVolume", UNMOUNTABLE)
    eventually(lambda: cluster.get("PersistentVolume", UNMOUNTABLE) is None, what=f"{UNMOUNTABLE} to go")
    shutil.rmtree(UNMOUNTABLE_FOLDER, ignore_errors=True)


@pytest.fixture(scope="module")
def broken(room: Room) -> dict[str, Applied]:
    remove_unmountable(room.cluster)  # of a run that was interrupted; its claim has gone with the former room
    return apply_all(room, SCENARIOS)


@pytest.fixture(scope="module")
def repaired(room: Room, broken: dict[str, Applied]) -> dict[str, Applied]:
    for scenario in SCENARIOS:
        scenario.repair(room, broken[scenario.name])
    return broken


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_what_is_wrong_is_reported(broken: dict[str, Applied], scenario: Scenario) -> None:
    assert_explained(scenario, broken[scenario.name])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_put_right_it_becomes_ready(repaired: dict[str, Applied], scenario: Scenario) -> None:
    model = repaired[scenario.name]
    model.wait_for_start()
    assert completion(model, "w1 w2 w3").strip()


@pytest.fixture
def chart_with_host_paths(chart: Chart) -> Iterator[Chart]:
    chart.install(allowHostPath=True)
    yield chart
    chart.install()


def test_pod_security_is_named_until_the_namespace_allows_the_pod(chart_with_host_paths: Chart) -> None:
    """Only paths of the node can be refused by it, and only where the chart lets them through."""
    with Room(chart_with_host_paths.cluster, "e2e-host-path").entered() as room:
        room.tiny("on-host")
        manifest = neuron_model("on-host", "")
        manifest["spec"]["model"]["source"] = {"hostPath": {"path": str(room.folder / "on-host")}}
        model, _ = room.apply(manifest)
        condition = model.wait_for_reason("PodSecurityRefused")
        assert "restricted" in condition.message
        assert "hostPath" in condition.message
        privileged = {"pod-security.kubernetes.io/enforce": "privileged"}
        room.cluster.patch("Namespace", room.namespace, None, {"metadata": {"labels": privileged}})
        model.wait_for_start()
        assert completion(model, "w1 w2 w3").strip()


def test_a_quota_that_leaves_no_room_is_named_until_it_does(chart: Chart) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}, "spec": {"hard": {"pods": "0"}}}
    with Room(chart.cluster, "e2e-quota").entered() as room:
        room.apply(quota)
        eventually(lambda: is_counted(room, "pods"), what="the quota to be counted")
        model, _ = room.neuron_model("over-quota", room.tiny("over-quota"))
        condition = model.wait_for_reason("QuotaExceeded")
        assert "exceeded quota: pods" in condition.message
        room.cluster.patch("ResourceQuota", "pods", room.namespace, {"spec": {"hard": {"pods": "10"}}})
        model.wait_for_start()


def is_counted(room: Room, quota: str) -> bool:
    """Before, whatever it is about is refused in other words."""
    found = room.cluster.get("ResourceQuota", quota, room.namespace)
    return found is not None and "used" in found.get("status", {})


def test_a_stuck_start_is_reported_and_goes_on_when_it_can(room: Room) -> None:
    """The worker is stopped in its tracks while it loads, and set going again."""
    model, _ = room.neuron_model("stuck", room.tiny("stuck"), serving={"startTimeoutSeconds": 6})
    pod = eventually(lambda: running_pod(model), what="a worker", instead=model.story)
    try:
        eventually(
            lambda: outages.send(pod, "neuronmodel", signal.SIGSTOP),
            what="its process",
            instead=model.story,
            poll=0.02,
        )
        condition = model.wait_for_reason("StartStuck")
        assert pod["metadata"]["name"] in condition.message
        assert model.serving_pod()["metadata"]["uid"] == pod["metadata"]["uid"], "a start that is stuck was killed"
    finally:
        outages.send(pod, "neuronmodel", signal.SIGCONT)
    model.wait_for_condition(ConditionType.READY, "True")
    assert model.serving_pod()["metadata"]["uid"] == pod["metadata"]["uid"]


def running_pod(model: Applied) -> Object | None:
    return next(iter(model.serving_pods()), None)
