"""Deaths at awkward moments: whatever dies, what the spec asks for is reached, with the right weights."""

import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_operator.cluster import lease_record

from . import outages, reference
from .capital import MODEL, SPEC
from .chart import Chart
from .chat import completion
from .neuronmodels import ON_TRN2, Applied
from .room import Room
from .waiting import eventually

PROMPT = "w1 w2 w3"
TOKENS = 12
Moment = tuple[str, Callable[[Applied], object]]


def pod_in_phase(component: str, *phases: str) -> Callable[[Applied], object]:
    def reached(model: Applied) -> bool:
        return any(pod["status"].get("phase") in phases for pod in model.children("Pod", component))

    return reached


def pod_runs(component: str) -> Callable[[Applied], object]:
    """Or ran: whoever looks now and then may miss that."""
    return pod_in_phase(component, "Running", "Succeeded")


OF_A_START: Sequence[Moment] = (
    ("it was applied", lambda model: True),
    ("its claim was made", lambda model: model.children("PersistentVolumeClaim")),
    ("its Job was made", lambda model: model.prepare_jobs()),
    ("its Job runs", pod_runs(names.COMPONENT_PREPARE)),
    ("its Job is done", pod_in_phase(names.COMPONENT_PREPARE, "Succeeded")),
    ("its worker was made", lambda model: model.serving_pods()),
    ("its worker runs", pod_runs(names.COMPONENT_SERVE)),
)
OF_A_DELETION: Sequence[Moment] = (
    ("it was asked for", lambda model: True),
    ("cleaning was begun", lambda model: gone(model) or model.children("Job", names.COMPONENT_CLEANUP)),
    ("cleaning runs", lambda model: gone(model) or pod_runs(names.COMPONENT_CLEANUP)(model)),
    ("cleaning is done", lambda model: gone(model) or pod_in_phase(names.COMPONENT_CLEANUP, "Succeeded")(model)),
)


def gone(model: Applied) -> bool:
    return model.cluster.get(names.KIND, model.name, model.namespace) is None


def kill_operator(chart: Chart, namespace: str) -> None:
    """SIGKILL, and no waiting for the kubelet's back-off, as its pod is replaced, nor for that one's Lease to end."""
    for pod in chart.operator_pods():
        outages.send(pod, "neuronmodel-operator", signal.SIGKILL)
        chart.cluster.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"], grace_seconds=0)
    chart.cluster.delete("Lease", lease_record.NAME, namespace)


def kill_operator_at(chart: Chart, model: Applied, moments: Sequence[Moment]) -> None:
    for what, reached in moments:
        eventually(lambda: reached(model), what=f"the moment when {what}", instead=model.story)  # noqa: B023
        kill_operator(chart, model.namespace)


@pytest.mark.alone
def test_killing_the_operator_ends_in_what_the_spec_asks_for(chart: Chart, room: Room) -> None:
    path = room.tiny("operator")
    expected = reference.answer(room.folder / "operator", PROMPT, num_tokens=TOKENS)
    model, since = room.neuron_model("operator", path, artifacts={"retention": "Delete"})

    kill_operator_at(chart, model, OF_A_START)
    start = model.wait_for_start(since=since)
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected

    model.change(parallelism={"tensorParallelDegree": 1})
    former = {job["metadata"]["uid"] for job in model.prepare_jobs()}
    new_job = ("the new Job was made", lambda m: {job["metadata"]["uid"] for job in m.prepare_jobs()} - former)
    kill_operator_at(chart, model, (("it was changed", lambda m: True), new_job, OF_A_START[-1]))
    model.wait_for_start(after=start.id)
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected

    model.delete()
    kill_operator_at(chart, model, OF_A_DELETION)
    model.wait_for_deletion()
    for kind in ("Deployment", "Job", "PersistentVolumeClaim", "Pod"):
        eventually(lambda: not model.children(kind), what=f"its {kind} to go", instead=model.story)  # noqa: B023


def test_killing_the_worker_while_it_loads_is_one_start_more(room: Room) -> None:
    path = room.tiny("worker")
    expected = reference.answer(room.folder / "worker", PROMPT, num_tokens=TOKENS)
    model, _ = room.neuron_model("worker", path, strategy="ShardOnLoad")
    eventually(lambda: outages.kill(model.serving_pods()), what="a worker to kill", instead=model.story)
    start = model.wait_for_start()
    assert start.cause == "ContainerRestarted"
    eventually(lambda: outages.kill(model.serving_pods()), what="a worker to kill", instead=model.story)
    model.wait_for_start(after=start.id)
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected


@pytest.fixture(scope="module")
def interrupted(room: Room) -> Applied:
    """Its Job was killed while it wrote shards; the next attempt comes by itself, a minute later."""
    model, _ = room.neuron_model("job", MODEL, strategy="ShardOnCompile", **SPEC)
    bound = eventually(lambda: model.artifacts_folder, what="its volume", instead=model.story)
    pids = eventually(lambda: outages.workers_of(model.preparing_pods()), what="its Job's process", instead=model.story)
    eventually(partial(half_written, bound), what="shards being written", instead=model.story, poll=0.01)
    outages.signal_all(pids, signal.SIGKILL)  # found before: the rest is written while the API server is asked
    assert not model.serving_pods(), "the shards were finished"
    return model


@pytest.mark.usefixtures("interrupted")
def test_a_job_that_vanishes_is_made_again(room: Room) -> None:
    model, since = room.neuron_model("vanished", room.tiny("vanished"))
    running = pod_runs(names.COMPONENT_PREPARE)
    eventually(lambda: running(model), what="its Job to run", instead=model.story, poll=0.02)
    for job in model.prepare_jobs():
        model.cluster.kubectl("delete", "job", job["metadata"]["name"], f"--namespace={room.namespace}", "--wait=false")
    model.wait_for_start(since=since)


def test_killing_the_job_amid_half_written_shards_leaves_right_ones(interrupted: Applied) -> None:
    start = interrupted.wait_for_start()
    assert {phase.attempt for phase in start.phases if phase.stage == "Prepare"} == {1, 2}
    assert "Paris" in completion(interrupted, "The capital of France is")


def half_written(folder: Path) -> bool:
    try:
        return any(file.stat().st_size > 1 << 20 for file in folder.rglob("*.safetensors*"))
    except FileNotFoundError:  # it was renamed meanwhile
        return False


@pytest.mark.alone
def test_losing_the_node_and_getting_it_back_ends_in_a_model_that_answers(room: Room) -> None:
    path = room.tiny("lost")
    expected = reference.answer(room.folder / "lost", PROMPT, num_tokens=TOKENS)
    model, since = room.neuron_model("lost", path, worker=ON_TRN2)
    start = model.wait_for_start(since=since)
    assert start.node_name == "trn2"
    with outages.lost_node("trn2"):
        eventually(lambda: not is_ready(model), what="the loss of its node to be noticed", instead=model.story)
    model.wait_for_start(after=start.id)
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected


def is_ready(model: Applied) -> bool:
    ready = model.condition(ConditionType.READY)
    return ready is not None and ready.status == "True"
