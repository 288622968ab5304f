"""What the world refuses becomes a reason, and goes when it is put right, without deleting the NeuronModel."""

from dataclasses import replace

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Cause, Outcome
from tests.builders import neuron_model
from tests.unit.operator.simulated import SETTINGS, Cluster, Run, failing

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
CLAIMS = ("models", "store", "nvme")


@pytest.mark.parametrize(
    ("missing", "reason", "where"),
    [
        ("models", "SourceClaimMissing", ConditionType.SOURCE_RESOLVED),
        ("store", "ArtifactsClaimMissing", ConditionType.ARTIFACTS_READY),
        ("nvme", "ScratchClaimMissing", ConditionType.SCHEDULED),
    ],
)
def test_a_claim_that_is_missing_is_named_and_then_found(missing: str, reason: str, where: ConditionType) -> None:
    scratch = {"persistentVolumeClaim": {"claimName": "nvme"}}
    cluster = Cluster.of(
        BASE.with_field("spec.scratch", scratch).build(), tuple(name for name in CLAIMS if name != missing)
    )
    cluster.run(5)
    assert cluster.reason() == cluster.reason(where) == ("False", reason)
    assert missing in cluster.condition().message
    assert not cluster.pods
    cluster.add_claim(missing)
    cluster.run_until_ready()


def test_a_host_path_is_refused_where_it_is_off_and_taken_where_it_is_on() -> None:
    cluster = Cluster.of(BASE.with_source_host_path("/data").build(), CLAIMS)
    cluster.run(5)
    assert cluster.reason() == ("False", "HostPathNotAllowed")
    assert not cluster.jobs
    cluster.settings = replace(SETTINGS, allow_host_path=True)
    cluster.run_until_ready()


@pytest.mark.parametrize(
    ("reason", "code", "where"),
    [
        ("ConfigMissing", exits.BAD_INPUT, ConditionType.SOURCE_RESOLVED),
        ("LayoutRefused", exits.BAD_INPUT, ConditionType.ARTIFACTS_READY),
        ("ArtifactsVolumeFull", exits.NO_SPACE, ConditionType.ARTIFACTS_READY),
    ],
)
def test_what_prepare_finds_wrong_is_the_reason_until_it_is_mended(
    reason: str, code: int, where: ConditionType
) -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.prepare = lambda config: failing(reason, code)
    cluster.run_until(lambda c: c.reason() == ("False", reason), steps=20)
    assert cluster.reason(where) == ("False", reason)
    assert [note.type for note in cluster.recorded_events if note.reason == reason] == ["Warning"]
    cluster.prepare = lambda config: Run()
    cluster.run_until_ready()


def test_a_pod_that_cannot_be_scheduled_says_what_the_scheduler_says() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.can_schedule = lambda pod: "0/2 nodes are available: 2 Insufficient aws.amazon.com/neuron."
    cluster.run(5)
    assert cluster.reason() == cluster.reason(ConditionType.SCHEDULED) == ("False", "Unschedulable")
    assert "Insufficient aws.amazon.com/neuron" in cluster.condition().message
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready()


def test_a_failing_change_leaves_the_former_worker_serving() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    pod = cluster.serving[0]["metadata"]["uid"]
    cluster.prepare = lambda config: failing("LayoutRefused")
    cluster.edit("parallelism.tensorParallelDegree", 7)
    cluster.run(30)
    assert cluster.reason() == ("False", "LayoutRefused")
    assert [p["metadata"]["uid"] for p in cluster.serving] == [pod]
    cluster.edit("parallelism.tensorParallelDegree", 4)
    cluster.run_until_ready()
    assert [p["metadata"]["uid"] for p in cluster.serving] == [pod]


def test_another_default_image_restarts_nothing_until_it_is_asked_for() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    pod, written = cluster.serving[0]["metadata"]["uid"], len(cluster.log)
    cluster.settings = replace(SETTINGS, worker_images=dict.fromkeys(SETTINGS.worker_images, "new:2"))
    cluster.run(20)
    assert [line for line in cluster.log[written:] if line != "status"] == []
    assert [p["metadata"]["uid"] for p in cluster.serving] == [pod]
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("True", "NewImage")
    assert cluster.reason() == ("True", "Serving")
    cluster.annotate(names.ANNOTATION_RESTART, "1")
    cluster.run(30)
    assert cluster.status.image == "new:2"
    assert cluster.reason(ConditionType.UPDATE_AVAILABLE) == ("False", "UpToDate")
    assert [start.cause for start in cluster.status.starts] == [Cause.SPEC_CHANGED, Cause.CREATED]


def test_a_finished_job_that_vanished_is_not_run_again() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    cluster.jobs.clear()
    cluster.run(20)
    assert not cluster.jobs
    assert cluster.reason() == ("True", "Serving")


def test_a_replaced_pod_and_a_restarted_container_are_starts_of_their_own() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    cluster.kill_pod(cluster.serving[0])
    cluster.run(20)
    cluster.crash(cluster.serving[0])
    cluster.run(20)
    causes = [(start.cause, start.outcome) for start in cluster.status.starts]
    assert causes == [
        (Cause.CONTAINER_RESTARTED, Outcome.READY),
        (Cause.POD_REPLACED, Outcome.READY),
        (Cause.CREATED, Outcome.READY),
    ]
    assert cluster.status.starts[0].phases[0].name == "Booted"


def test_more_replicas_than_one_node_can_mount_keep_one() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    cluster.edit("serving.replicas", 2)
    cluster.run(10)
    assert cluster.reason() == ("False", "ReplicasNeedSharedVolume")
    assert len(cluster.serving) == 1
    cluster.edit("serving.replicas", 1)
    cluster.run_until_ready()


def test_replicas_that_need_shared_volumes_hide_nothing_that_keeps_all_of_them_from_serving() -> None:
    cluster = Cluster.of(BASE.with_serving(replicas=2).build(), ("store",))
    cluster.run(3)
    assert cluster.reason() == ("False", "SourceClaimMissing")
    cluster.add_claim("models")
    cluster.run_until(lambda c: c.reason() == ("False", "ReplicasNeedSharedVolume"))


def test_deletion_with_retention_delete_cleans_first_and_then_drops_the_claim() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_retention("Delete").build())
    cluster.run_until_ready()
    assert cluster.model["metadata"]["finalizers"] == [names.FINALIZER]
    cluster.delete_model()
    cluster.run(40)
    assert cluster.is_gone
    order = [line for line in cluster.log if "cleanup" in line or "Claim smol" in line or "delete Deployment" in line]
    assert order[-4:] == [
        "delete Deployment smol",
        "create Job smol-cleanup-uid-mode",
        "delete PersistentVolumeClaim smol-artifacts",
        "delete Job smol-cleanup-uid-mode",
    ]
    assert not cluster.jobs


def test_deletion_with_retention_retain_needs_no_finalizer_and_leaves_the_claim() -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().build())
    cluster.run_until_ready()
    cluster.delete_model()
    assert cluster.is_gone
    assert "smol-artifacts" in cluster.claims


@pytest.mark.parametrize("cause", ["namespace", "claim", "cleaning"])
def test_a_deletion_that_cannot_clean_lets_go_with_a_warning(cause: str) -> None:
    cluster = Cluster.of(neuron_model("smol").on_cpu().with_retention("Delete").build())
    cluster.run_until_ready()
    cluster.namespace_terminating = cause == "namespace"
    if cause == "claim":
        del cluster.claims["smol-artifacts"]
    if cause == "cleaning":
        cluster.cleanup = failing("SourceUnreadable")
    cluster.delete_model()
    cluster.run(80, seconds=10)
    assert cluster.is_gone
    assert [note.type for note in cluster.recorded_events if note.reason == "CleanupAbandoned"] == ["Warning"]
