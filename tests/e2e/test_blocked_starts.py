"""Somebody forgot something: what the start says of that time, and what the columns show meanwhile and afterwards."""

from neuronmodel_api.status import Start

from .capital import MODEL, SPEC
from .cluster import Object
from .columns import rows
from .neuronmodels import Applied
from .room import Room, claim
from .waiting import eventually

BLOCKED = "Blocked"
KEY = {"name": "keys", "key": "api"}


def blocked(start: Start) -> dict[str | None, int]:
    """Milliseconds by what had to be mended, in order."""
    return {phase.reason: phase.milliseconds for phase in start.phases if phase.name == BLOCKED}


def row(room: Room, model: Applied) -> dict[str, str]:
    return rows(room.cluster, room.namespace)[model.name]


def secret(namespace: str) -> Object:
    about = {"name": KEY["name"], "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": about, "stringData": {KEY["key"]: "sesame"}}


def loaded_events(room: Room) -> list[str]:
    messages = (event["message"] for event in room.cluster.find("Event", room.namespace))
    return [message for message in messages if message.startswith("Loaded in ")]


def test_time_in_which_somebody_fixed_something_is_reported_separately(room: Room) -> None:
    model, _ = room.neuron_model("forgotten", MODEL, claim="late", serving={"apiKeySecretRef": KEY}, **SPEC)
    model.wait_for_reason("SourceClaimMissing")
    assert (row(room, model)["LOAD"], row(room, model)["PROGRESS"]) == ("", "")
    room.cluster.apply(claim("late", room.namespace, storage_class="models", size="1Gi", mode="ReadOnlyMany"))

    progress = eventually(lambda: model.status.progress, what="progress to be reported", instead=model.story, poll=0.1)
    phase, _, percent = progress.partition(" ")
    assert phase.isalpha()
    assert percent == "" or percent.endswith("%")

    model.wait_for_reason("VolumeMountFailed")
    (lasting,) = (phase for phase in model.status.starts[0].phases[-1:] if phase.name == BLOCKED)
    assert (lasting.reason, lasting.milliseconds) == ("VolumeMountFailed", 0)
    assert row(room, model)["CACHE"] == "Miss", "of the start under way"
    room.cluster.apply(secret(room.namespace))

    start = model.wait_for_start()
    assert list(blocked(start)) == ["SourceClaimMissing", "VolumeMountFailed"]
    assert min(blocked(start).values()) > 0
    assert start.total_milliseconds is not None
    load = (start.total_milliseconds - sum(blocked(start).values())) / 1000
    shown = row(room, model)
    assert (shown["LOAD"], shown["CACHE"], shown["PROGRESS"]) == (f"{load:.1f}s", "Miss", "")
    (message,) = eventually(lambda: loaded_events(room), what="the Event of the start", instead=model.story)
    assert message.startswith(f"Loaded in {load:.1f} s")
    assert "SourceClaimMissing, VolumeMountFailed" in message
