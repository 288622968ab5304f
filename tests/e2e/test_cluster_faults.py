"""Faults of the cluster itself while real workers start, serve and go: its kubelets, container runtime, registry and
DNS, quotas, volumes and namespaces. `make campaign` runs them; they take a quarter of an hour, so `make test` does not.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from hack.cluster import control_plane, nodes, processes, registry
from hack.cluster.layout import NODES, node_named
from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType

from . import reference
from .chart import Chart
from .chat import completion
from .cluster import Object
from .neuronmodels import ON_TRN2, Applied
from .room import Room, wait_for_deletion
from .test_killed import OF_A_DELETION, OF_A_START, PROMPT, TOKENS, Moment, is_ready
from .waiting import eventually

pytestmark = pytest.mark.campaign


def restart_kubelets() -> None:
    for node in NODES:
        processes.stop(f"kubelet-{node.name}")
        nodes.start(node)


def restart_container_runtimes() -> None:
    """Containers go on without theirs."""
    for node in NODES:
        processes.stop(f"containerd-{node.name}", how=signal.SIGKILL)
        nodes.start(node)


@pytest.mark.parametrize("restart", [restart_kubelets, restart_container_runtimes])
def test_restarted_in_each_phase_it_ends_in_what_the_spec_asks_for(room: Room, restart: Callable[[], None]) -> None:
    name = restart.__name__.replace("_", "-")
    path = room.tiny(name)
    expected = reference.answer(room.folder / name, PROMPT, num_tokens=TOKENS)
    model, _ = room.neuron_model(name, path, artifacts={"retention": "Delete"})
    for what, reached in OF_A_START:
        eventually(lambda: reached(model), what=f"the moment when {what}", instead=model.story)  # noqa: B023
        restart()
    start = model.wait_for_start()
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected
    restart()
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected
    assert model.last_start == start, "a worker that serves is left alone"
    model.delete()
    for what, reached in OF_A_DELETION:
        eventually(lambda: reached(model), what=f"the moment when {what}", instead=model.story)  # noqa: B023
        restart()
    model.wait_for_deletion()


@contextmanager
def without_registry() -> Iterator[None]:
    registry.stop()
    try:
        yield
    finally:
        registry.ensure_registry()


def test_without_the_registry_an_image_that_is_not_there_is_reported_until_it_is_back(chart: Chart, room: Room) -> None:
    """By another name the nodes do not have it yet."""
    image = chart.worker_image.replace("localhost:", "127.0.0.1:")
    with without_registry():
        model, _ = room.neuron_model("no-registry", room.tiny("no-registry"), worker={"image": image})
        model.wait_for_reason("ImagePullFailed")
    model.wait_for_start()


@contextmanager
def without_dns() -> Iterator[None]:
    processes.stop("coredns")
    try:
        yield
    finally:
        control_plane.ensure_controllers()


def test_without_dns_a_model_starts_and_answers(room: Room) -> None:
    with without_dns():
        model, since = room.neuron_model("no-dns", room.tiny("no-dns"))
        model.wait_for_start(since=since)
        assert completion(model, PROMPT).strip()


def test_a_quota_lowered_under_a_worker_is_told_when_the_worker_is_replaced(chart: Chart) -> None:
    with Room(chart.cluster, "e2e-lowered").entered() as room:
        model, _ = room.neuron_model("lowered", room.tiny("lowered"))
        start = model.wait_for_start()
        spec = {"hard": {"pods": "1"}}
        room.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods"}, "spec": spec})
        eventually(lambda: used(room, "pods"), what="the quota to be counted")
        room.cluster.patch("ResourceQuota", "pods", room.namespace, {"spec": {"hard": {"pods": "0"}}})
        assert completion(model, PROMPT).strip()
        room.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], room.namespace)
        assert "exceeded quota: pods" in model.wait_for_reason("QuotaExceeded").message
        room.cluster.patch("ResourceQuota", "pods", room.namespace, {"spec": {"hard": {"pods": "10"}}})
        model.wait_for_start(after=start.id)
        assert completion(model, PROMPT).strip()


def used(room: Room, quota: str) -> bool:
    found = room.cluster.get("ResourceQuota", quota, room.namespace)
    return found is not None and "pods" in found.get("status", {}).get("used", {})


def test_a_volume_that_is_deleted_under_a_worker_is_told(room: Room) -> None:
    """Kubernetes holds it until its claim goes, unless somebody removes what holds it."""
    model, _ = room.neuron_model("volume", room.tiny("volume"))
    model.wait_for_start()
    claim = room.cluster.get("PersistentVolumeClaim", names.templated_claim("volume"), room.namespace)
    assert claim is not None
    volume = claim["spec"]["volumeName"]
    manifest = room.cluster.get("PersistentVolume", volume)
    assert manifest is not None
    room.cluster.delete("PersistentVolume", volume)
    assert is_ready(model)
    room.cluster.patch("PersistentVolume", volume, None, {"metadata": {"finalizers": None}})
    try:
        lost = model.wait_for_condition(ConditionType.ARTIFACTS_READY, "False", reason="ClaimLost")
        assert claim["metadata"]["name"] in lost.message
    finally:
        room.cluster.apply(without_identity(manifest))


def without_identity(volume: Object) -> Object:
    spec = {key: value for key, value in volume["spec"].items() if key != "claimRef"}
    meta = {key: volume["metadata"].get(key) for key in ("name", "labels") if volume["metadata"].get(key)}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": meta, "spec": spec}


def test_replaced_by_force_it_is_served_again_from_what_was_kept(room: Room) -> None:
    """`kubectl replace --force` deletes it and makes it again at once."""
    model, _ = room.neuron_model("replaced", room.tiny("replaced"))
    model.wait_for_start()
    uid = model.resource["metadata"]["uid"]
    manifest = room.cluster.kubectl("get", "nm/replaced", f"--namespace={room.namespace}", "--output=json")
    room.cluster.kubectl("replace", "--force", "--filename=-", f"--namespace={room.namespace}", stdin=manifest)
    eventually(lambda: model.resource["metadata"]["uid"] != uid, what="another NeuronModel", instead=model.story)
    start = model.wait_for_start()
    assert start.cache == "Hit"
    assert completion(model, PROMPT).strip()


OF_A_NAMESPACE: tuple[Moment, ...] = (*OF_A_START, ("it answers", is_ready))


@pytest.mark.parametrize("retention", ["Retain", "Delete"])
@pytest.mark.parametrize("moment", OF_A_NAMESPACE, ids=lambda moment: moment[0].replace(" ", "-"))
def test_a_namespace_goes_whenever_it_is_deleted(chart: Chart, moment: Moment, retention: str) -> None:
    number = OF_A_NAMESPACE.index(moment)
    with Room(chart.cluster, f"e2e-ends-{number}-{retention.lower()}").entered() as room:
        model, _ = room.neuron_model("ends", room.tiny("ends"), artifacts={"retention": retention})
        what, reached = moment
        eventually(lambda: reached(model), what=f"the moment when {what}", instead=model.story)
        room.cluster.delete("Namespace", room.namespace)
        wait_for_deletion(room.cluster, room.namespace)


def test_a_node_whose_kubelet_is_gone_for_a_while_keeps_its_worker(room: Room) -> None:
    """For less time than after which its pods are replaced: nothing is started again."""
    model, _ = room.neuron_model("silent", room.tiny("silent"), worker=ON_TRN2)
    start = model.wait_for_start()
    node = node_named("trn2")
    processes.stop(f"kubelet-{node.name}")
    try:
        assert completion(model, PROMPT).strip()
    finally:
        nodes.start(node)
    model.wait_for_condition(ConditionType.READY, "True", reason="Serving")
    assert last_id(model) == start.id
    # The next kubelet of this machine does not find bind mounts of its own file system again: the pod would stay.
    pod = model.serving_pod()["metadata"]["name"]
    model.delete()
    model.wait_for_deletion()
    room.cluster.delete("Pod", pod, room.namespace, grace_seconds=0)


def last_id(model: Applied) -> str | None:
    start = model.last_start
    return start.id if start else None
