"""What Kubernetes refuses, and where: each becomes a reason in the condition that it concerns, is reported once, keeps
the sentence of the one who refused, and goes when it is put right, without deleting the NeuronModel."""

from dataclasses import replace

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.report import Sizing
from neuronmodel_operator.state.observed import Refusal
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Object, Run, component, failing, stamp

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
CLAIMS = ("models", "store")
POD_SECURITY = 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "worker" …)'
COMPONENTS = pytest.mark.parametrize("which", [names.COMPONENT_PREPARE, names.COMPONENT_SERVE])


def made() -> Cluster:
    return Cluster.of(BASE.build(), CLAIMS)


def warnings(cluster: Cluster, reason: str) -> int:
    return len([note for note in cluster.recorded_events if (note.type, note.reason) == ("Warning", reason)])


@COMPONENTS
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (POD_SECURITY, "PodSecurityRefused"),
        ("exceeded quota: small, requested: pods=1, used: pods=3, limited: pods=3", "QuotaExceeded"),
        ("failed quota: small: must specify limits.memory for: worker", "QuotaExceeded"),
        ("maximum memory usage per Container is 1Gi, but limit is 2Gi", "LimitRangeRefused"),
        ("minimum cpu usage per Pod is 1, but request is 250m", "LimitRangeRefused"),
        ("cpu max limit to request ratio per Container is 2, but provided ratio is 4.0", "LimitRangeRefused"),
        ('admission webhook "policy.example" denied the request: no', "PodRefused"),
    ],
)
def test_a_pod_that_is_not_admitted_is_reported_and_created_once_it_is(which: str, message: str, reason: str) -> None:
    cluster = made()
    cluster.admission = lambda pod: message if component(pod) == which else None
    cluster.run(60)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("False", reason)
    assert message in cluster.condition().message
    assert "uid-" not in cluster.condition().message, "the name of a pod that changes with each try"
    assert warnings(cluster, reason) == 1
    cluster.admission = lambda pod: None
    cluster.run_until_ready(60)


CLAIMING = [
    {"name": "devices", "resourceClaimTemplateName": "neuron"},
    {"name": "fabric", "resourceClaimName": "efa"},
]


@pytest.mark.parametrize(
    ("worker", "fragment"),
    [
        ({"resourceClaims": CLAIMING}, "default-scheduler has not looked at it, and does so when its resource claims"),
        ({"resourceClaims": CLAIMING}, "are there: one of neuron, efa. Make what is missing"),
        ({"schedulerName": "my-scheduler"}, "the scheduler my-scheduler has not looked at it. See that it runs"),
    ],
)
def test_a_pod_that_no_scheduler_mentions_is_reported(worker: Object, fragment: str) -> None:
    cluster = Cluster.of(BASE.with_worker(**worker).build(), CLAIMS)
    cluster.can_schedule = lambda pod: "" if component(pod) == names.COMPONENT_SERVE else None
    cluster.run(20)
    assert cluster.reason() == ("Unknown", "WaitingForNode"), "it may just be slow"
    cluster.run(40)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("False", "Unschedulable")
    assert fragment in cluster.condition().message
    assert warnings(cluster, "Unschedulable") == 1
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready(60)


def test_a_resource_claim_that_cannot_be_created_is_reported_at_once() -> None:
    cluster = Cluster.of(BASE.with_worker(resourceClaims=CLAIMING).build(), CLAIMS)
    cluster.can_schedule = lambda pod: "" if component(pod) == names.COMPONENT_SERVE else None
    cluster.run_until(lambda c: bool(c.serving))
    message = 'PodResourceClaim devices: resource claim template "neuron" not found'
    cluster.tell(cluster.serving[0], "FailedResourceClaimCreation", message)
    cluster.run(2)
    assert cluster.reason() == ("False", "Unschedulable")
    assert message in cluster.condition().message


def test_a_refused_serving_pod_is_tried_again_every_half_minute() -> None:
    cluster = made()
    tries: list[str] = []

    def refuse(pod: Object) -> str | None:
        if component(pod) != names.COMPONENT_SERVE:
            return None
        tries.append(stamp(cluster.now))
        return POD_SECURITY

    cluster.admission = refuse
    cluster.run(130)
    assert 4 <= len(tries) <= 6
    assert cluster.deployment is not None
    assert cluster.deployment["metadata"]["generation"] == 1


def test_a_job_whose_pod_was_never_created_is_recreated_from_the_current_spec() -> None:
    cluster = made()
    cluster.admission = lambda pod: POD_SECURITY if "env" not in str(pod["metadata"]["labels"]) else None
    cluster.run(10)
    assert cluster.reason() == ("False", "PodSecurityRefused")
    (former,) = cluster.live_jobs
    cluster.edit("worker.podLabels", {"env": "prod"})
    cluster.run_until_ready(40)
    (job,) = cluster.live_jobs
    assert job["metadata"]["uid"] != former["metadata"]["uid"]


def test_a_job_that_waits_for_its_image_is_recreated_with_another_and_a_running_one_is_left_alone() -> None:
    cluster = made()
    cluster.kubelet = lambda pod: waiting("ImagePullBackOff") if image_of(pod) != "mine:2" else None
    cluster.run(10)
    (former,) = cluster.live_jobs
    cluster.edit("worker.image", "mine:2")
    cluster.run_until(lambda c: any("running" in state for state in container_states(c)))
    (job,) = cluster.live_jobs
    assert job["metadata"]["uid"] != former["metadata"]["uid"]
    cluster.edit("worker.image", "mine:3")
    cluster.kubelet = lambda pod: None
    cluster.run_until_ready()
    assert [found["metadata"]["uid"] for found in cluster.live_jobs] == [job["metadata"]["uid"]]
    assert cluster.status.image == "mine:3"


def waiting(reason: str, message: str = "") -> Object:
    return {"reason": reason, "message": message}


def image_of(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def container_states(cluster: Cluster) -> list[Object]:
    return [status["state"] for pod in cluster.pods.values() for status in pod["status"]["containerStatuses"]]


@COMPONENTS
@pytest.mark.parametrize(
    ("kubelet_reason", "reason"),
    [
        ("ErrImagePull", "ImagePullFailed"),
        ("ImagePullBackOff", "ImagePullFailed"),
        ("InvalidImageName", "ImagePullFailed"),
        ("ErrImageNeverPull", "ImagePullFailed"),
        ("CreateContainerConfigError", "ContainerRefused"),
        ("CreateContainerError", "ContainerRefused"),
    ],
)
def test_a_container_that_the_node_cannot_create_is_reported(which: str, kubelet_reason: str, reason: str) -> None:
    cluster = made()
    cluster.kubelet = lambda pod: waiting(kubelet_reason, "in its own words") if component(pod) == which else None
    cluster.run(20)
    where = ConditionType.ARTIFACTS_READY if which == names.COMPONENT_PREPARE else ConditionType.LOADED
    assert cluster.reason() == cluster.reason(where) == ("False", reason)
    assert cluster.reason(ConditionType.SCHEDULED) == ("True", "Placed")
    assert "in its own words" in cluster.condition().message
    assert warnings(cluster, reason) == 1
    cluster.kubelet = lambda pod: None
    cluster.run_until_ready(60)


def test_a_pull_and_its_pause_alternate_and_the_reason_and_the_sentence_stay() -> None:
    cluster = made()
    error = 'Failed to pull image "worker-cpu:1": failed to resolve reference: no such host'
    turn = 0

    def alternate(pod: Object) -> Object:
        nonlocal turn
        turn += 1
        if turn == 1:
            cluster.tell(pod, "Failed", error)
        return waiting(*(("ErrImagePull", error), ("ImagePullBackOff", "Back-off pulling image"))[turn % 2])

    cluster.kubelet = alternate
    cluster.run(4)
    written = len(cluster.log)
    cluster.run(30)
    assert cluster.log[written:] == []
    assert "no such host" in cluster.condition().message


@COMPONENTS
@pytest.mark.parametrize("event", ["FailedMount", "FailedAttachVolume", "FailedMapVolume"])
def test_a_volume_that_cannot_be_mounted_is_reported_until_it_is(which: str, event: str) -> None:
    cluster = made()

    def refuse(pod: Object) -> Object | None:
        if component(pod) != which:
            return None
        cluster.tell(pod, event, "MountVolume.SetUp failed: path does not exist")
        return {}

    cluster.kubelet = refuse
    cluster.run(20)
    assert cluster.reason() == ("False", "VolumeMountFailed")
    assert "path does not exist" in cluster.condition().message
    assert warnings(cluster, "VolumeMountFailed") == 1
    cluster.kubelet = lambda pod: None
    cluster.run_until_ready(60)


@pytest.mark.parametrize(
    ("kind", "name", "reason", "message", "where", "expected"),
    [
        ("Job", None, "Forbidden", "exceeded quota: few, requested: count/jobs.batch=1", "Scheduled", "QuotaExceeded"),
        ("Job", None, "NameTaken", "", "Scheduled", "NameTaken"),
        ("Deployment", "smol", "Invalid", "spec.template is wrong", "Scheduled", "WriteRefused"),
        ("Service", "smol", "NameTaken", "", "Ready", "NameTaken"),
        (
            "PersistentVolumeClaim",
            "smol-artifacts",
            "Forbidden",
            "maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 10Gi",
            "ArtifactsReady",
            "LimitRangeRefused",
        ),
    ],
)
def test_a_refused_write_is_reported_where_it_belongs(
    kind: str, name: str | None, reason: str, message: str, where: str, expected: str
) -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())

    def answer(manifest: Object) -> Refusal | None:
        own = manifest["metadata"]["name"]
        return Refusal(kind, own, reason, message) if manifest["kind"] == kind and name in (None, own) else None

    cluster.answer_to_write = answer
    cluster.can_schedule = lambda pod: None if "smol-artifacts" in cluster.claims else "claim not found"
    cluster.run(40)
    assert cluster.reason() == cluster.reason(ConditionType(where)) == ("False", expected)
    assert message in cluster.condition().message
    assert warnings(cluster, expected) == 1
    cluster.answer_to_write = lambda manifest: None
    cluster.run_until_ready(60)


def test_a_service_that_an_edit_spoiled_is_recreated() -> None:
    cluster = made()
    cluster.run_until_ready()
    assert cluster.service is not None
    former = cluster.service["metadata"]["uid"]
    cluster.service["spec"]["ports"][0]["port"] = 9999

    def two_ports_of_one_name(manifest: Object) -> Refusal | None:
        taken = manifest["kind"] == "Service" and cluster.service is not None
        return Refusal("Service", "smol", "Invalid", 'spec.ports[1].name: Duplicate value: "http"') if taken else None

    cluster.answer_to_write = two_ports_of_one_name
    cluster.run(4)
    assert cluster.service is not None
    assert cluster.service["metadata"]["uid"] != former
    assert cluster.service["spec"]["ports"][0]["port"] == 8000
    assert cluster.refusals == ()


def test_a_worker_that_was_killed_for_want_of_memory_says_what_to_raise() -> None:
    cluster = made()
    cluster.run_until(lambda c: bool(c.serving) and c.serving[0]["status"]["phase"] == "Running")
    cluster.crash(cluster.serving[0])
    cluster.reconcile()
    assert cluster.reason() == ("False", "WorkerCrashed")
    assert "want of memory" in cluster.condition().message
    assert "spec.worker.resources" in cluster.condition().message


def test_of_a_worker_that_was_killed_for_want_of_memory_limit_and_need_are_named() -> None:
    cluster = made()
    sizing = Sizing(host_memory_bytes=973 << 20, rank_bytes=1)
    cluster.prepare = lambda config: Run(sizing=sizing)
    cluster.edit("worker.resources", {"limits": {"memory": "200Mi"}})
    cluster.run_until(lambda c: bool(c.serving) and c.serving[0]["status"]["phase"] == "Running")
    cluster.crash(cluster.serving[0])
    cluster.reconcile()
    assert cluster.condition().message.endswith(
        "was killed for want of memory (exit code 137): its limit is 200Mi, and a start needs about 973Mi. Raise the "
        "memory limit in spec.worker.resources."
    )


def test_a_start_without_progress_is_stuck_and_is_left_running() -> None:
    cluster = made()
    cluster.edit("serving.startTimeoutSeconds", 60)
    cluster.serve = lambda config: replace(failing("never"), milliseconds=10**9)
    cluster.run_until(lambda c: c.reason(ConditionType.LOADED) == ("Unknown", "Loading"))
    pod = cluster.serving[0]["metadata"]["uid"]
    cluster.run(50)
    assert cluster.reason() == ("Unknown", "Loading")
    plan = cluster.reconcile()
    assert plan.wake_after is not None
    assert plan.wake_after.total_seconds() <= 12
    cluster.run(20)
    assert cluster.reason() == cluster.reason(ConditionType.LOADED) == ("False", "StartStuck")
    assert [found["metadata"]["uid"] for found in cluster.serving] == [pod]
    cluster.serve = lambda config: replace(failing("x"), failure=None, exit_code=exits.OK)
    cluster.run_until_ready()


def test_a_pod_that_waits_for_a_node_is_never_stuck() -> None:
    cluster = made()
    cluster.edit("serving.startTimeoutSeconds", 60)
    cluster.can_schedule = lambda pod: "0/2 nodes are available."
    cluster.run(100, seconds=10)
    assert cluster.reason() == ("False", "Unschedulable")
