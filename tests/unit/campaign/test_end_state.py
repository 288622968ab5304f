"""What differs at the end of a story is found, and what differs each time is not."""

from typing import Any

import pytest

from neuronmodel_operator.cluster import client
from tests.campaign import end_state
from tests.campaign.end_state import differences

Object = dict[str, Any]


class Listed:
    """An API server that has the objects of each kind."""

    def __init__(self, objects: dict[client.Kind, list[Object]]) -> None:
        self._objects = objects

    async def list(self, kind: client.Kind, namespace: str) -> list[Object]:
        return self._objects.get(kind, [])


def told(letter: str, **changes: Any) -> dict[client.Kind, list[Object]]:
    """The same story in a namespace, with UIDs, hashes and names of its own."""
    uid = f"{letter * 8}-{letter * 4}-{letter * 4}-{letter * 4}-{letter * 12}"
    since = f"2026-01-{ord(letter) % 9:02}T00:00:00Z"
    ready = {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": since}
    phases = [
        {"stage": "Serve", "name": "Read", "milliseconds": ord(letter)}, {"stage": "Serve", "name": "Booted"},
    ]  # fmt: skip
    start = {"cause": "Created", "podName": f"smol-{letter * 6}-{letter * 5}", "phases": phases}
    status = {"observedGeneration": 2, "lastLoad": f"{ord(letter)}.1s", "conditions": [ready], "starts": [start]}
    meta = {"name": "smol", "uid": uid, "resourceVersion": str(ord(letter)), "namespace": f"campaign-{letter}"}
    annotations = {"a": letter * 16, "b": letter * 16, "c": f"{ord(letter):016x}"}
    return {
        client.MODEL: [{"metadata": meta | {"generation": 2}, "status": status | changes}],
        client.DEPLOYMENT: [{"metadata": meta | {"annotations": annotations}, "status": {"replicas": ord(letter)}}],
    }


async def of(letter: str, **changes: Any) -> end_state.EndState:
    return await end_state.end_state(Listed(told(letter, **changes)), f"campaign-{letter}")  # type: ignore[arg-type]


async def test_the_same_story_ends_the_same() -> None:
    assert differences(await of("b"), await of("c")) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"observedGeneration": 1}, "/NeuronModel smol/status/of is 1 in place of 2"),
        ({"conditions": []}, "/NeuronModel smol/status/conditions/Ready is missing"),
        ({"starts": []}, "/NeuronModel smol/status/starts[0] is 'nothing' in place of {'cause': 'Created'"),
        ({"phase": "Ready"}, "/NeuronModel smol/status/phase is 'Ready', and is not there without a fault"),
    ],
)
async def test_what_differs_is_named(changes: Object, place: str) -> None:
    (line,) = differences(await of("b"), await of("c", **changes))
    assert line.startswith(place)


async def test_hashes_that_are_no_longer_the_same_differ() -> None:
    other = told("c")
    other[client.DEPLOYMENT][0]["metadata"]["annotations"]["b"] = "d" * 16
    found = await end_state.end_state(Listed(other), "campaign-c")  # type: ignore[arg-type]
    assert differences(await of("b"), found) != []


def test_reports_that_are_lost_with_former_workers_are_forgiven_and_nothing_else() -> None:
    def model(*starts: Object) -> Object:
        return {"NeuronModel smol": {"status": {"starts": [dict(start) for start in starts]}}}

    whole = {"cause": "Scaled", "tier": "Artifacts", "phases": ["Serve 1 Read"]}
    lost = {"cause": "Scaled", "phases": []}
    found = model(whole, lost)
    assert differences(model(whole, whole), found)
    assert not differences(end_state.without_reports_that_are_lost(model(whole, whole), found), found)
    for other in (
        model(lost, whole),
        model(whole),
        model(whole, lost | {"cause": "Created"}),
        model(whole, whole, lost),
    ):
        assert differences(end_state.without_reports_that_are_lost(model(whole, whole), other), other), other
