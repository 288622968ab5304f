"""Workers that crash or are asked to stop: what failed is quoted, with a command that works, and stays known."""

import re
import shlex
import signal

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Start

from . import outages
from .capital import DEGREE, MODEL, SPEC
from .chat import completion
from .cluster import Object
from .neuronmodels import Applied
from .room import Room
from .scenarios import event_reasons
from .waiting import eventually

WITHOUT_LIBRARY = {"env": [{"name": "PYTHONHOME", "value": "/nope"}]}
FAILED = "Fatal Python error: "
MISSING = "No module named 'encodings'"
STOPPED = "Terminated: attempt 1: was told to stop before it was done."


def log_by(model: Applied, message: str) -> str:
    """What the command prints that a message advises."""
    found = re.search(r"See `kubectl ([^`]*)`", message)
    assert found, message
    return model.cluster.kubectl(*shlex.split(found[1]))


def test_why_prepare_crashed_is_quoted_and_noted(room: Room) -> None:
    model, _ = room.neuron_model("no-python", room.tiny("no-python"), worker=WITHOUT_LIBRARY)
    message = model.wait_for_reason("PrepareFailed").message
    assert FAILED in message
    assert MISSING in message
    assert MISSING in log_by(model, message)
    model.retry()
    start = eventually(lambda: noted(model), what="a note of the first attempt", instead=model.story)
    assert start.notes == (f"PrepareFailed: attempt 1: ended with exit code 1: {quote(message)}.",)
    model.change(worker={"env": None})
    model.wait_for_start()
    assert completion(model, "w1 w2 w3").strip()
    messages = [event["message"] for event in events(model) if MISSING in event["message"]]
    assert len(messages) == 2, messages  # one an attempt


def quote(message: str) -> str:
    found = re.search(rf"{FAILED}.*{MISSING}", message)
    assert found, message
    return found[0]


def noted(model: Applied) -> Start | None:
    start = model.last_start
    return start if start and start.notes else None


def events(model: Applied) -> list[Object]:
    found = model.cluster.find("Event", model.namespace)
    return [event for event in found if event["involvedObject"]["name"] == model.name]


def test_the_log_of_a_worker_that_crashes_again_and_again_is_shown_by_the_command(room: Room) -> None:
    model, _ = room.neuron_model("lost-python", room.tiny("lost-python"))
    model.wait_for_start()
    model.change(worker=WITHOUT_LIBRARY)
    message = model.wait_for_reason("WorkerCrashed").message
    assert MISSING in message
    eventually(lambda: MISSING in log_by(model, model.wait_for_reason("WorkerCrashed").message), what="its log")
    eventually(lambda: restarts(model) > 2, what="some more runs", instead=model.story)
    eventually(lambda: MISSING in log_by(model, model.wait_for_reason("WorkerCrashed").message), what="its log")


def restarts(model: Applied) -> int:
    return int(model.serving_pod()["status"]["containerStatuses"][0]["restartCount"])


def test_a_worker_that_is_stopped_while_it_loads_starts_again_and_nobody_is_warned(room: Room) -> None:
    model, _ = room.neuron_model("stopped", MODEL, degree=DEGREE, strategy="ShardOnLoad", **SPEC)
    pod = eventually(lambda: at_work(model, "Serve"), what="a worker that loads", instead=model.story, poll=0.05)
    assert outages.send(pod, "neuronmodel", signal.SIGTERM)
    model.wait_for_start()
    assert "Terminated" in [start.reason for start in model.status.starts]
    assert model.serving_pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert "Terminated" not in event_reasons(model)


def test_a_prepare_that_is_asked_to_stop_is_waited_for(room: Room) -> None:
    model, _ = room.neuron_model("interrupted", MODEL, degree=DEGREE, strategy="ShardOnCompile", **SPEC)
    pod = eventually(lambda: at_work(model, "Prepare"), what="prepare at work", instead=model.story, poll=0.05)
    assert outages.send(pod, "neuronmodel", signal.SIGTERM)
    assert_waits_for_another(model)
    model.retry()
    start = model.wait_for_start()
    assert start.notes == (STOPPED,)


def test_prepare_whose_pod_is_deleted_is_waited_for(room: Room) -> None:
    model, _ = room.neuron_model("deleted", MODEL, degree=DEGREE, strategy="ShardOnCompile", **SPEC)
    pod = eventually(lambda: at_work(model, "Prepare"), what="prepare at work", instead=model.story, poll=0.05)
    assert outages.send(pod, "neuronmodel", signal.SIGSTOP), "it was over before its pod was deleted"
    room.cluster.delete("Pod", pod["metadata"]["name"], room.namespace)
    outages.send(pod, "neuronmodel", signal.SIGTERM)
    outages.send(pod, "neuronmodel", signal.SIGCONT)
    assert_waits_for_another(model)
    eventually(lambda: not model.children("Pod"), what="its pod to go", instead=model.story)
    assert_waits_for_another(model)
    model.retry()
    start = model.wait_for_start()
    assert start.notes == (STOPPED,)


def assert_waits_for_another(model: Applied) -> None:
    condition = model.wait_for_condition(ConditionType.READY, "Unknown", reason="Terminated")
    assert "was told to stop before it was done. Attempt 1 failed; prepare runs again" in condition.message
    assert "Terminated" not in event_reasons(model)


def at_work(model: Applied, stage: str) -> Object | None:
    """Its pod, once the worker has reported."""
    worker = next((w for w in model.status.workers if w.stage == stage and w.progress), None)
    component = {"Serve": names.COMPONENT_SERVE, "Prepare": names.COMPONENT_PREPARE}[stage]
    pods = model.children("Pod", component)
    return next((pod for pod in pods if worker and pod["metadata"]["name"] == worker.pod_name), None)
