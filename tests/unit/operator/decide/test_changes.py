"""What a change recreates, and what it leaves alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Cause, Outcome
from tests.builders import neuron_model
from tests.unit.operator.simulated import SETTINGS, Cluster, Run, config_of, failing

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
CLAIMS = ("models", "store", "others")
Change = Callable[[Cluster], None]


def serving() -> Cluster:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    return cluster


def jobs_made(cluster: Cluster) -> int:
    return len([line for line in cluster.log if line.startswith("create Job")])


def edited(path: str, value: object) -> Change:
    return lambda cluster: cluster.edit(path, value)


@pytest.mark.parametrize(
    ("change", "prepares", "rolls"),
    [
        (edited("worker.image", "mine:1"), True, True),
        (edited("worker.resources", {"limits": {"memory": "8Gi"}}), False, True),
        (edited("serving.port", 9000), False, True),
        (edited("model.servedName", "mine"), False, True),
        (lambda cluster: cluster.annotate(names.ANNOTATION_RESTART, "1"), False, True),
        (edited("sharding.strategy", "ShardOnLoad"), True, True),
        (edited("parallelism.tensorParallelDegree", 2), True, True),
        (edited("compile.batchSize", 2), True, True),
        (edited("engine", "Neuron"), True, True),
        (edited("model.source", {"persistentVolumeClaim": {"claimName": "others"}}), True, True),
        (edited("artifacts.persistentVolumeClaim", {"claimName": "others"}), True, True),
        (edited("artifacts.retention", "Delete"), False, False),
        (edited("serving.startTimeoutSeconds", 60), False, False),
        (edited("prepare.nodeSelector", {"pool": "build"}), False, False),
        (edited("sharding.strategy", "Auto"), False, False),
        (edited("sharding.strategy", "ShardOnCompile"), False, False),
        (edited("sharding.seal", "Before"), False, False),
        (edited("sharding.seal", "Behind"), True, True),
        (edited("artifacts.verification", "Full"), False, True),
        (edited("scratch", {"emptyDir": {"sizeLimit": "1Gi"}}), False, True),
        (lambda cluster: cluster.annotate("note", "1"), False, False),
    ],
)
def test_a_change_rebuilds_and_restarts_what_depends_on_it(change: Change, prepares: bool, rolls: bool) -> None:
    cluster = serving()
    (pod,) = cluster.serving
    change(cluster)
    cluster.run(30)
    cluster.run_until_ready()
    assert jobs_made(cluster) == (2 if prepares else 1)
    assert (cluster.serving[0]["metadata"]["uid"] != pod["metadata"]["uid"]) is rolls
    expected = [Cause.SPEC_CHANGED, Cause.CREATED] if rolls else [Cause.CREATED]
    assert [start.cause for start in cluster.status.starts] == expected
    assert {start.outcome for start in cluster.status.starts} == {Outcome.READY}


@pytest.mark.parametrize(
    "change",
    [
        edited("worker.image", "mine:1"),
        edited("worker.resources", {"limits": {"memory": "8Gi"}}),
        lambda cluster: cluster.annotate(names.ANNOTATION_RESTART, "1"),
        lambda cluster: setattr(cluster, "settings", replace(SETTINGS, worker_images={"CPU": "new:2"})),  # type: ignore[dict-item]
    ],
    ids=["image", "resources", "restart", "upgrade"],
)
def test_a_running_prepare_finishes_though_its_pod_would_now_be_rendered_differently(change: Change) -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until(lambda c: any(pod["status"]["phase"] == "Running" for pod in c.pods.values()))
    (job,) = cluster.live_jobs
    change(cluster)
    cluster.run_until_ready()
    assert [found["metadata"]["uid"] for found in cluster.live_jobs] == [job["metadata"]["uid"]]


@pytest.mark.parametrize("stop", [edited("suspend", True), edited("serving.replicas", 0)], ids=["suspended", "scaled"])
def test_prepare_finishes_while_no_worker_is_wanted_and_its_result_is_kept(stop: Change) -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until(lambda c: any(pod["status"]["phase"] == "Running" for pod in c.pods.values()))
    stop(cluster)
    cluster.run(30)
    assert cluster.reason(ConditionType.ARTIFACTS_READY) == ("True", "Prepared")
    assert cluster.serving == []
    cluster.edit("suspend", False)
    cluster.edit("serving.replicas", 1)
    resumed_at = cluster.now
    cluster.run_until_ready()
    assert jobs_made(cluster) == 1
    assert cluster.status.starts[0].started_at >= resumed_at, "time asleep counts in no start"


def test_what_changes_while_suspended_is_built_ahead() -> None:
    cluster = serving()
    cluster.edit("suspend", True)
    cluster.run(5)
    cluster.edit("parallelism.tensorParallelDegree", 2)
    cluster.run(30)
    assert cluster.reason() == ("False", "Suspended")
    assert cluster.reason(ConditionType.ARTIFACTS_READY) == ("True", "Prepared")
    made = jobs_made(cluster)
    cluster.edit("suspend", False)
    cluster.run_until_ready()
    assert jobs_made(cluster) == made
    assert config_of(cluster.serving[0]).neuron_config["tp_degree"] == 2


def test_auto_that_chooses_what_was_named_before_restarts_nothing() -> None:
    cluster = Cluster.of(BASE.with_strategy("ShardOnCompile").build(), CLAIMS)
    cluster.run_until_ready()
    (pod,) = cluster.serving
    cluster.edit("sharding.strategy", "Auto")
    cluster.run(5)
    assert cluster.status.starts[0].outcome is Outcome.RUNNING
    cluster.run_until_ready()
    cluster.run(5)
    assert jobs_made(cluster) == 2
    assert [found["metadata"]["uid"] for found in cluster.serving] == [pod["metadata"]["uid"]]
    (start,) = cluster.status.starts
    assert (start.cause, start.outcome) == (Cause.CREATED, Outcome.READY)


def test_a_strategy_switched_back_before_the_other_was_built_restarts_nothing() -> None:
    cluster = Cluster.of(BASE.with_strategy("ShardOnCompile").build(), CLAIMS)
    cluster.run_until_ready()
    (pod,) = cluster.serving
    cluster.prepare = lambda config: Run(milliseconds=60_000)
    cluster.edit("sharding.strategy", "ShardOnLoad")
    cluster.run(10)
    cluster.edit("sharding.strategy", "ShardOnCompile")
    cluster.run_until_ready()
    cluster.run(5)
    assert [found["metadata"]["uid"] for found in cluster.serving] == [pod["metadata"]["uid"]]
    assert cluster.jobs == {}, "the Job of the other strategy has gone"


def test_a_job_that_is_deleted_while_it_runs_is_made_again_when_its_pod_has_gone() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until(lambda c: any(pod["status"]["phase"] == "Running" for pod in c.pods.values()))
    (pod,) = cluster.pods.values()
    cluster.jobs.clear()
    cluster.reconcile()
    assert cluster.jobs == {}, "its pod still writes"
    cluster.kill_pod(pod)
    cluster.step()
    cluster.reconcile()
    assert len(cluster.jobs) == 1
    cluster.run_until_ready()


def test_a_claim_that_vanished_is_named_and_rebuilt_on() -> None:
    cluster = serving()
    del cluster.claims["store"]
    cluster.run(5)
    assert cluster.reason() == ("True", "Serving"), "who serves goes on"
    cluster.kill_pod(cluster.serving[0])
    cluster.can_schedule = lambda pod: None if "store" in cluster.claims else 'persistentvolumeclaim "store" not found'
    cluster.run(5)
    assert cluster.reason() == ("False", "ArtifactsClaimMissing")
    cluster.add_claim("store")
    cluster.serve = lambda config: (
        failing("ArtifactDamaged", exits.ARTIFACT_DAMAGED) if jobs_made(cluster) < 2 else Run()
    )
    cluster.run_until_ready()
    assert jobs_made(cluster) == 2


def test_an_upgrade_while_a_pod_waits_for_a_node_is_taken_up() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.can_schedule = lambda pod: "no node"
    cluster.run(5)
    cluster.settings = replace(SETTINGS, worker_images=dict.fromkeys(SETTINGS.worker_images, "new:2"))
    cluster.run(5)
    cluster.can_schedule = lambda pod: None
    cluster.run_until_ready()
    assert {pod["spec"]["containers"][0]["image"] for pod in cluster.pods.values()} == {"new:2"}
    (start,) = cluster.status.starts
    assert start.cause is Cause.CREATED
