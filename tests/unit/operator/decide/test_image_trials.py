"""An image that a live model never ran is tried before the pod that answers is stopped: a typo costs no outage."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from neuronmodel_api import exits, names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Cause, Outcome
from tests.builders import neuron_model
from tests.unit.operator.simulated import SETTINGS, Cluster, Object, Run, component, failing

BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")
CLAIMS = ("models", "store")
TYPO = "registry.example.com/wroker:1"


def serving() -> Cluster:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.run_until_ready()
    return cluster


def image_of(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["image"])


def not_there(*images: str) -> Callable[[Object], Object | None]:
    message = "pull access denied"
    return lambda pod: {"reason": "ErrImagePull", "message": message} if image_of(pod) in images else None


def serving_uids(cluster: Cluster) -> list[str]:
    return [pod["metadata"]["uid"] for pod in cluster.serving]


def jobs_made(cluster: Cluster) -> int:
    return len([line for line in cluster.log if line.startswith("create Job")])


def test_an_image_that_cannot_be_pulled_stops_nobody_and_is_reported() -> None:
    cluster = serving()
    before = serving_uids(cluster)
    cluster.kubelet = not_there(TYPO)
    cluster.edit("worker.image", TYPO)
    cluster.run(60)
    assert serving_uids(cluster) == before
    assert cluster.reason() == cluster.reason(ConditionType.ARTIFACTS_READY) == ("False", "ImagePullFailed")
    assert TYPO in cluster.condition().message
    assert "goes on answering" in cluster.condition().message


def test_a_typo_that_is_taken_back_restarts_nobody_and_leaves_nothing() -> None:
    cluster = serving()
    before, jobs = serving_uids(cluster), {job["metadata"]["uid"] for job in cluster.live_jobs}
    cluster.kubelet = not_there(TYPO)
    cluster.edit("worker.image", TYPO)
    cluster.run(20)
    del cluster.model["spec"]["worker"]["image"]
    cluster.model["metadata"]["generation"] += 1
    cluster.run_until_ready()
    made = jobs_made(cluster)
    cluster.run(10)
    assert serving_uids(cluster) == before
    assert {job["metadata"]["uid"] for job in cluster.live_jobs} <= jobs
    assert jobs_made(cluster) == made, "what was prepared is remembered, whatever became of its Job"
    assert cluster.reason() == ("True", "Serving")


def test_another_image_that_is_there_takes_its_place() -> None:
    cluster = serving()
    before = serving_uids(cluster)
    cluster.kubelet = not_there(TYPO)
    cluster.edit("worker.image", TYPO)
    cluster.run(20)
    cluster.edit("worker.image", "mine:2")
    cluster.run_until_ready()
    assert [image_of(pod) for pod in cluster.serving] == ["mine:2"]
    assert serving_uids(cluster) != before


def test_an_image_that_appears_is_taken_up_by_itself() -> None:
    cluster = serving()
    cluster.kubelet = not_there("mine:2")
    cluster.edit("worker.image", "mine:2")
    cluster.run(20)
    cluster.kubelet = lambda pod: None
    cluster.run_until_ready()
    assert [image_of(pod) for pod in cluster.serving] == ["mine:2"]


@pytest.mark.parametrize(("reason", "reported"), [("NoEngine", "NoEngine"), ("WorkerCrashed", "PrepareFailed")])
def test_an_image_that_cannot_run_stops_nobody_and_going_back_restarts_nobody(reason: str, reported: str) -> None:
    cluster = serving()
    before = serving_uids(cluster)
    cluster.prepare = lambda config: failing(reason, exits.NO_ENGINE)
    cluster.edit("worker.image", "other:1")
    cluster.run(30)
    assert serving_uids(cluster) == before
    assert cluster.reason() == ("False", reported)
    cluster.prepare = lambda config: Run()
    cluster.edit("worker.image", "worker-cpu:1")
    cluster.run_until_ready()
    assert serving_uids(cluster) == before


def test_a_wrong_default_is_tried_too_where_a_restart_takes_it_up() -> None:
    cluster = serving()
    before = serving_uids(cluster)
    cluster.settings = replace(SETTINGS, worker_images=dict.fromkeys(SETTINGS.worker_images, TYPO))
    cluster.kubelet = not_there(TYPO)
    cluster.run(5)
    assert cluster.reason() == ("True", "Serving"), "an upgrade alone changes nothing"
    cluster.annotate(names.ANNOTATION_RESTART, "now")
    cluster.run(30)
    assert serving_uids(cluster) == before
    assert cluster.reason() == ("False", "ImagePullFailed")


def test_a_pull_secret_is_tried_as_an_image_is() -> None:
    cluster = serving()
    before = serving_uids(cluster)
    cluster.kubelet = lambda pod: (
        {"reason": "ErrImagePull", "message": "unauthorized"} if pod["spec"].get("imagePullSecrets") else None
    )
    cluster.edit("worker.imagePullSecrets", [{"name": "wrong"}])
    cluster.run(30)
    assert serving_uids(cluster) == before
    assert cluster.reason() == ("False", "ImagePullFailed")


def test_where_nobody_answers_there_is_nothing_to_lose() -> None:
    cluster = Cluster.of(BASE.build(), CLAIMS)
    cluster.kubelet = lambda pod: {"reason": "ErrImagePull"} if component(pod) == names.COMPONENT_SERVE else None
    cluster.run(30)
    made = jobs_made(cluster)
    cluster.edit("worker.image", "mine:2")
    cluster.kubelet = lambda pod: None
    cluster.run_until_ready()
    assert jobs_made(cluster) == made


def test_the_trial_is_a_part_of_the_start_and_no_wait_between_attempts() -> None:
    cluster = serving()
    cluster.edit("worker.image", "mine:2")
    cluster.run_until_ready()
    start = cluster.status.starts[0]
    assert (start.cause, start.outcome) == (Cause.SPEC_CHANGED, Outcome.READY)
    phases = [(phase.stage, phase.name) for phase in start.phases]
    assert ("Prepare", "SourceOpened") in phases
    assert "BackedOff" not in {name for _, name in phases}
    assert sum(phase.milliseconds for phase in start.phases) == start.total_milliseconds


def test_a_scaling_meanwhile_is_carried_out() -> None:
    cluster = Cluster.of(BASE.build(), ())
    for claim in CLAIMS:
        cluster.add_claim(claim, "ReadWriteMany")
    cluster.run_until_ready()
    cluster.kubelet = not_there(TYPO)
    cluster.edit("worker.image", TYPO)
    cluster.run(5)
    cluster.edit("serving.replicas", 2)
    cluster.run(20)
    assert [image_of(pod) for pod in cluster.serving] == ["worker-cpu:1", "worker-cpu:1"]
