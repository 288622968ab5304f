"""The operator comes, is upgraded and goes; what it serves stays."""

import pytest

from neuronmodel_api import names
from neuronmodel_api.status import ConditionType

from .chart import Chart, with_second_tag
from .chat import completion
from .neuronmodels import Applied
from .room import Room
from .waiting import eventually

PROMPT = "w1 w2 w3"
NEXT_TAG = "next"
PASSES = 'neuronmodel_operator_reconciles_total{outcome="Done"}'
READY_MODELS = 'neuronmodel_operator_models{condition="Ready",status="True"}'


@pytest.fixture(scope="module")
def model(room: Room) -> Applied:
    applied, since = room.neuron_model("steady", room.tiny("steady"))
    applied.await_start(since=since)
    return applied


def facts(model: Applied) -> tuple[object, ...]:
    """What a restart or a second preparation would change."""
    pod = model.serving_pod()
    restarts = [status["restartCount"] for status in pod["status"]["containerStatuses"]]
    return pod["metadata"]["uid"], restarts, sorted(job["metadata"]["uid"] for job in model.prepare_jobs())


def test_an_upgrade_with_another_worker_image_restarts_nothing_until_asked(chart: Chart, model: Applied) -> None:
    before = facts(model)
    following = with_second_tag(chart.worker_image, NEXT_TAG)
    chart.install(workerImages={"cpu": following, "neuron": following})
    try:
        condition = model.await_condition(ConditionType.UPDATE_AVAILABLE, "True")
        assert following in condition.message
        assert facts(model) == before
        assert model.status.image == chart.worker_image

        start = model.finished_start()
        assert start is not None
        since = model.annotate(restart="1")
        model.await_start(since=since, after=start.id)
        assert model.status.image == following
        assert model.serving_pod()["spec"]["containers"][0]["image"] == following
    finally:
        chart.install()


def test_uninstalling_leaves_models_and_workers_and_installing_takes_them_over(chart: Chart, model: Applied) -> None:
    before, answer = facts(model), completion(model, PROMPT)
    claims = model.children("PersistentVolumeClaim")
    chart.uninstall()
    try:
        assert model.resource["status"]["phase"] == "Ready"
        assert facts(model) == before
        assert completion(model, PROMPT) == answer
        assert model.children("PersistentVolumeClaim") == claims
        # Nobody is there to act on it; the operator that comes finds it.
        model.change(serving={"replicas": 0})
    finally:
        chart.install()
    eventually(lambda: not model.serving_pods(), what="the worker to go", instead=model.story)
    start = model.last_start
    assert start is not None
    since = model.change(serving={"replicas": 1})
    model.await_start(since=since, after=start.id)
    assert completion(model, PROMPT) == answer


def test_installing_again_restarts_nothing(chart: Chart, model: Applied) -> None:
    before = facts(model)
    chart.uninstall()
    chart.install()
    num_models = len(chart.cluster.find(names.KIND))
    eventually(
        lambda: (chart.metric(PASSES) or 0) >= num_models,
        what="the new operator to have looked at every NeuronModel",
        instead=model.story,
    )
    assert chart.metric(READY_MODELS)
    assert facts(model) == before
