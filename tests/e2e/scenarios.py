"""Things that are wrong with a NeuronModel or around it: each has to get a reason, and to recover once put right."""

from collections.abc import Callable
from dataclasses import dataclass

from .cluster import Object
from .neuronmodels import Applied
from .room import Room
from .waiting import eventually


@dataclass(frozen=True)
class Scenario:
    name: str
    breaks: Callable[[Room], Object]
    """Prepares what is wrong; the NeuronModel to apply."""
    reason: str
    says: tuple[str, ...]
    """Words of the message: what was wrong, where, what to do."""
    repair: Callable[[Room, Applied], object]

    def __str__(self) -> str:
        return self.name


def apply_all(room: Room, scenarios: tuple[Scenario, ...]) -> dict[str, Applied]:
    """Side by side, since most of each is waiting."""
    return {scenario.name: room.apply(scenario.breaks(room))[0] for scenario in scenarios}


def assert_explained(scenario: Scenario, model: Applied) -> None:
    condition = model.wait_for_reason(scenario.reason)
    missing = [words for words in scenario.says if words not in condition.message]
    assert not missing, f"the message lacks {missing}: {condition.message}"
    # The Event is written right after the status.
    eventually(lambda: scenario.reason in event_reasons(model), what=f"an Event {scenario.reason}")


def event_reasons(model: Applied) -> set[str]:
    events = model.cluster.find("Event", model.namespace)
    return {event["reason"] for event in events if event["involvedObject"]["name"] == model.name}
