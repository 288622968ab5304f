"""What a deletion leaves, and what the next NeuronModel of that name finds."""

from neuronmodel_api import names

from .chat import completion
from .neuronmodels import Applied, Expected, wait_for_starts
from .room import Room
from .waiting import eventually

PROMPT = "w1 w2 w3"


def test_artifacts_are_kept_for_the_next_of_that_name_or_removed(room: Room) -> None:
    """Retain and Delete side by side."""
    retained, retained_since = room.neuron_model("retained", room.tiny("retained"))
    removed, removed_since = room.neuron_model("removed", room.tiny("removed"), artifacts={"retention": "Delete"})
    wait_for_starts(Expected(retained, retained_since), Expected(removed, removed_since))
    answer = completion(retained, PROMPT)

    for model in (retained, removed):
        model.delete()
    for model in (retained, removed):
        model.wait_for_deletion()
    kept = room.cluster.get("PersistentVolumeClaim", names.templated_claim("retained"), room.namespace)
    assert kept is not None
    assert kept["metadata"].get("ownerReferences") is None
    wait_for_no_claim(removed)

    again, since = room.neuron_model("retained", room.path("retained"))
    start = again.wait_for_start(since=since)
    assert start.cache == "Hit"
    assert completion(again, PROMPT) == answer


def test_deleting_one_of_two_on_a_claim_leaves_the_other_what_it_uses(room: Room) -> None:
    """The user's own claim; one model alone uses its shards, both use the compiled model."""
    volume = room.claim_volume("ours", "named-0")
    named = {"template": None, "persistentVolumeClaim": {"claimName": "ours"}, "retention": "Delete"}
    first, _ = room.neuron_model("first", room.tiny("first", seed=1), artifacts=named)
    second, _ = room.neuron_model("second", room.tiny("second", seed=2), artifacts=named)
    wait_for_starts(Expected(first), Expected(second))
    answer = completion(second, PROMPT)
    shards_of = {model.name: shards_key(model) for model in (first, second)}

    first.delete()
    first.wait_for_deletion()
    assert room.cluster.get("PersistentVolumeClaim", "ours", room.namespace), "a claim of the user's was deleted"
    on_disk = {folder.name for folder in volume.rglob("*")}
    assert shards_of["second"] in on_disk
    assert shards_of["first"] not in on_disk

    before = second.finished_start()
    assert before is not None
    second.cluster.delete("Pod", second.serving_pod()["metadata"]["name"], second.namespace)
    start = second.wait_for_start(after=before.id)
    assert {phase.stage for phase in start.phases} == {"Serve"}, "it had to be prepared again"
    assert completion(second, PROMPT) == answer


def shards_key(model: Applied) -> str:
    artifacts = model.status.artifacts
    assert artifacts is not None
    assert artifacts.shards_key is not None
    return artifacts.shards_key


def wait_for_no_claim(model: Applied) -> None:
    name = names.templated_claim(model.name)
    eventually(
        lambda: model.cluster.get("PersistentVolumeClaim", name, model.namespace) is None,
        what=f"claim {name} to go",
        instead=model.story,
    )
