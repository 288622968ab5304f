"""The operator comes, is upgraded and goes; what it serves stays."""

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_operator.cluster import lease_record

from .chart import NAMESPACE, RELEASE, Chart, with_second_tag
from .chat import completion
from .cluster import Object
from .neuronmodels import Applied
from .room import Room
from .waiting import eventually

pytestmark = pytest.mark.alone

PROMPT = "w1 w2 w3"
NEXT_TAG = "next"
LACKING = "The operator's account lacks rights in all namespaces: get, list, watch, patch neuronmodels.neuronmodel.dev"
UNPULLABLE = {"ErrImagePull", "ImagePullBackOff"}
PASSES = 'neuronmodel_operator_reconciles_total{outcome="Done"}'
READY_MODELS = 'neuronmodel_operator_models{condition="Ready",status="True"}'


@pytest.fixture(scope="module")
def model(room: Room) -> Applied:
    applied, since = room.neuron_model("steady", room.tiny("steady"))
    applied.wait_for_start(since=since)
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
        condition = model.wait_for_condition(ConditionType.UPDATE_AVAILABLE, "True")
        assert following in condition.message
        assert facts(model) == before
        assert model.status.image == chart.worker_image

        start = model.finished_start()
        assert start is not None
        since = model.annotate(restart="1")
        model.wait_for_start(since=since, after=start.id)
        assert model.status.image == following
        assert model.serving_pod()["spec"]["containers"][0]["image"] == following
    finally:
        chart.install()


def holder(chart: Chart, model: Applied) -> str:
    """The identity of who operates the model's namespace; empty: nobody."""
    found = chart.cluster.get("Lease", lease_record.NAME, model.namespace)
    return str(found["spec"]["holderIdentity"]) if found else ""


def identity(pod: Object) -> str:
    return f"{NAMESPACE}/{pod['metadata']['name']}"


def is_ready(pod: Object) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"]["conditions"]
    )


def waiting_reasons(pod: Object) -> set[str]:
    states = [status["state"] for status in pod["status"].get("containerStatuses", ())]
    return {state["waiting"]["reason"] for state in states if "waiting" in state}


def change_of_no_consequence(model: Applied, seconds: int) -> None:
    """That the operator has seen."""
    model.change(serving={"startTimeoutSeconds": seconds})
    generation = model.resource["metadata"]["generation"]
    eventually(
        lambda: model.status.observed_generation == generation, what="the change to be seen", instead=model.story
    )


def test_an_image_that_cannot_be_pulled_leaves_the_operator_that_runs(chart: Chart, model: Applied) -> None:
    before = chart.operator_pod()
    chart.begin_upgrade(operator_image=f"{chart.operator_image}-that-is-not-there")
    try:
        new = eventually(
            lambda: next((pod for pod in chart.operator_pods() if waiting_reasons(pod) & UNPULLABLE), None),
            what="the new pod to have no image",
        )
        assert not is_ready(new)
        change_of_no_consequence(model, 3601)
        (old,) = (pod for pod in chart.operator_pods() if pod["metadata"]["uid"] == before["metadata"]["uid"])
        assert is_ready(old)
        assert holder(chart, model) == identity(old)
    finally:
        chart.install()
    assert chart.operator_pod()["metadata"]["uid"] == before["metadata"]["uid"]


def test_an_upgrade_hands_over_from_pod_to_pod(chart: Chart, model: Applied) -> None:
    before = chart.operator_pod()
    chart.install(podAnnotations={"example.com/upgraded": "true"})
    try:
        after = chart.operator_pod()
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        eventually(lambda: holder(chart, model) == identity(after), what="the new operator to take over")
        change_of_no_consequence(model, 3602)
    finally:
        chart.install()


def test_rights_that_are_gone_show_in_the_pod_s_events_and_helm_gives_them_back(chart: Chart, model: Applied) -> None:
    before = chart.operator_pod()
    name = before["metadata"]["name"]
    chart.cluster.kubectl("delete", "clusterrolebinding", f"{NAMESPACE}-{RELEASE}")
    try:
        eventually(
            lambda: LACKING in chart.cluster.kubectl("describe", "pod", name, "--namespace", NAMESPACE),
            what="the pod's events to tell of it",
        )
        assert not is_ready(chart.operator_pod())
    finally:
        chart.install()
    assert chart.operator_pod()["metadata"]["uid"] == before["metadata"]["uid"]
    change_of_no_consequence(model, 3603)
    restarts = [status["restartCount"] for status in chart.operator_pod()["status"]["containerStatuses"]]
    assert restarts == [status["restartCount"] for status in before["status"]["containerStatuses"]]


def test_one_more_release_is_refused_with_instructions(chart: Chart, model: Applied) -> None:
    for values in (
        {},
        {"crds": {"install": False}},
        {"crds": {"install": False}, "watchNamespaces": [model.namespace]},
    ):
        eventually(lambda: holder(chart, model), what="the namespace to be operated")
        refusal = chart.refusal_of_second(**values)
        assert f"the release {RELEASE}" in refusal or f"the release {NAMESPACE}/{RELEASE}" in refusal
        assert "crds.install=false" in refusal
        assert "watchNamespaces" in refusal


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
    model.wait_for_start(since=since, after=start.id)
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
