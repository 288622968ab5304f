"""Claims that get no volume and claims that are deleted: reported by the NeuronModel, and over once fixed."""

import pytest

from neuronmodel_api.conditions import ConditionType

from .chat import completion
from .cluster import Object
from .neuronmodels import Applied, neuron_model
from .room import Room, claim
from .scenarios import Scenario, apply_all, assert_explained, event_reasons
from .waiting import eventually

PROMPT = "w1 w2 w3"
CLASSLESS = "classless"
LARGE = "large"
OWN = {"template": None, "persistentVolumeClaim": {"claimName": "own"}}


def class_missing(room: Room) -> Object:
    artifacts = {"template": {"size": "1Gi", "storageClassName": "no-such-class"}}
    return neuron_model("class-missing", room.tiny("class-missing"), artifacts=artifacts)


def name_a_claim(room: Room, model: Applied) -> None:
    room.cluster.apply(claim("own", room.namespace, storage_class="local", size="1Gi"))
    model.change(artifacts=OWN)


def no_class(room: Room) -> Object:
    """There is no volume for this one either, which only a Normal Event reports."""
    room.cluster.apply(claim(CLASSLESS, room.namespace, storage_class="", size="1Gi"))
    named = {"template": None, "persistentVolumeClaim": {"claimName": CLASSLESS}}
    return neuron_model("no-class", room.tiny("no-class"), artifacts=named)


def too_large(room: Room) -> Object:
    room.cluster.apply(claim(LARGE, room.namespace, storage_class="local", size="900Gi"))
    return neuron_model("too-large", room.tiny("too-large"), scratch={"persistentVolumeClaim": {"claimName": LARGE}})


def recreate_claim(room: Room, name: str) -> None:
    room.cluster.delete("PersistentVolumeClaim", name, room.namespace)
    what = f"the claim {name} to go"
    eventually(lambda: room.cluster.get("PersistentVolumeClaim", name, room.namespace) is None, what=what)
    room.cluster.apply(claim(name, room.namespace, storage_class="local", size="1Gi"))


SCENARIOS = (
    Scenario(
        "class-missing",
        class_missing,
        "ClaimPending",
        (
            "class-missing-artifacts",
            "class no-such-class, 1Gi",
            '"no-such-class" not found',
            "name a claim of your own",
        ),
        name_a_claim,
    ),
    Scenario(
        "no-class",
        no_class,
        "ClaimPending",
        (f"claim {CLASSLESS} (without a class", "no persistent volumes available", "spec.artifacts"),
        lambda room, model: recreate_claim(room, CLASSLESS),
    ),
    Scenario(
        "too-large",
        too_large,
        "ClaimPending",
        (f"{LARGE} (class local, 900Gi, ReadWriteOnce)", "didn't find available persistent volumes to bind"),
        lambda room, model: recreate_claim(room, LARGE),
    ),
)


@pytest.fixture(scope="module")
def broken(room: Room) -> dict[str, Applied]:
    return apply_all(room, SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_claim_without_a_volume_is_named(broken: dict[str, Applied], scenario: Scenario) -> None:
    assert_explained(scenario, broken[scenario.name])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_put_right_it_becomes_ready(room: Room, broken: dict[str, Applied], scenario: Scenario) -> None:
    model = broken[scenario.name]
    scenario.repair(room, model)
    model.wait_for_start()
    assert completion(model, PROMPT).strip()


def test_an_artifacts_claim_that_is_deleted_under_a_worker_is_reported_and_rebuilt_on(room: Room) -> None:
    model, _ = room.neuron_model("deleted", room.tiny("deleted"))
    first = model.wait_for_start()
    answer = completion(model, PROMPT)
    room.cluster.delete("PersistentVolumeClaim", "deleted-artifacts", room.namespace)
    condition = model.wait_for_condition(ConditionType.ARTIFACTS_READY, "False", reason="ClaimTerminating")
    assert model.serving_pod()["metadata"]["name"] in condition.message
    assert "made anew from the template" in condition.message
    model.wait_for_condition(ConditionType.READY, "True", reason="Serving")
    room.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], room.namespace)
    model.wait_for_start(after=first.id)
    assert completion(model, PROMPT) == answer
    events = model.cluster.find("Event", model.namespace)
    messages = [event["message"] for event in events if event["involvedObject"]["name"] == model.name]
    assert not [message for message in messages if "damaged" in message]
    assert {"ClaimTerminating", "ArtifactsMissing"} <= event_reasons(model)
    artifacts = model.wait_for_condition(ConditionType.ARTIFACTS_READY, "True", reason="Prepared")
    assert "the volume is new" in artifacts.message
