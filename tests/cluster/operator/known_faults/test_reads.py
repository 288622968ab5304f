"""Watches that die, expire or say nothing, reads that are behind, and writes onto what somebody else has just written.

What other operators fell over: docs/reliability.md names each issue beside its test.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from tests.cluster.operator.known_faults.conftest import Place
from tests.cluster.operator.process import until
from tests.faults.faults import CutAfter, Refuse
from tests.faults.requests import Match
from tests.faults.watch_events import EventFaults, EventId, Passed

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHILDREN = frozenset({"jobs", "pods", "deployments", "services", "persistentvolumeclaims"})


@dataclass
class Unheard(EventFaults):
    """No event of any child ever comes."""

    def passed(self, identity: EventId | None, event: dict[str, Any]) -> Passed:
        if identity is None or identity.resource not in CHILDREN:
            return super().passed(identity, event)
        self.num_befallen += 1
        return Passed([])


async def test_a_start_whose_events_never_come_ends_all_the_same(place: Place) -> None:
    place.proxy.event_faults = unheard = Unheard()
    await place.start()
    model = await place.make()
    await model.serving()
    assert unheard.num_befallen > 0
    assert len(model.written("jobs", "create")) == 1


async def test_a_watch_that_expires_finds_what_it_had_missed(place: Place) -> None:
    missed, last = EventId(names.PLURAL, "missed", 1), EventId(names.PLURAL, "last", 1)
    place.proxy.event_faults = faults = EventFaults(dropped=frozenset({missed}), expiring=frozenset({last}))
    await place.start()
    first = await place.make("missed")
    await until(lambda: has_come(place, missed))
    second = await place.make("last")
    await asyncio.gather(first.serving(), second.serving())
    assert faults.num_befallen == 2


async def has_come(place: Place, event: EventId) -> bool:
    return event in place.proxy.events.ids


@pytest.mark.parametrize(("verb", "skip"), [("list", 1), ("watch", 0)])
async def test_an_operator_whose_watch_is_turned_down_for_good_ends_so_that_its_successor_watches(
    place: Place, verb: str, skip: int
) -> None:
    """The first list asks whether there are NeuronModels at all."""
    turned_down = place.proxy.faults.add(Refuse(410, "Expired"), Match(frozenset({verb}), names.PLURAL), skip=skip)
    place.operator.start()
    await until(lambda: ended(place))
    assert turned_down.num_used == 1
    await place.start()
    await (await place.make()).serving()


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_watch_of_children_that_is_turned_down_begins_anew(place: Place, verb: str) -> None:
    turned_down = place.proxy.faults.add(Refuse(410, "Expired"), Match(frozenset({verb}), "jobs"), times=2)
    await place.start()
    await (await place.make()).serving()
    assert turned_down.num_used == 2
    assert place.operator.is_alive


async def ended(place: Place) -> bool:
    return not place.operator.is_alive


async def test_a_mirror_that_is_behind_makes_no_second_job(place: Place) -> None:
    """The answer to the Job's creation is lost, and no event says that it exists: it is asked for again."""
    place.proxy.event_faults = unheard = Unheard()
    await place.start()
    place.proxy.faults.add(CutAfter(), Match(frozenset({"create"}), "jobs"))
    model = await place.make()
    await model.serving()
    assert unheard.num_befallen > 0
    assert "create jobs" in model.refused(409), "it was told that there is none"
    (job,) = await model.all_of(client.JOB)
    assert job["metadata"]["ownerReferences"][0]["uid"] == model.uid
    assert {write.body["metadata"]["name"] for write in model.attempted("jobs", "create")} == {job["metadata"]["name"]}


async def test_a_status_that_meets_a_conflict_leads_to_no_second_job(place: Place) -> None:
    """Somebody writes to the NeuronModel without a pause until the status has met one."""
    await place.start()
    model = await place.make()
    number = 0
    while f"patch {names.PLURAL}/status {model.name}" not in model.refused(409):
        number += 1
        note = {"metadata": {"annotations": {"tests.example.com/note": str(number)}}}
        await place.api.merge(client.MODEL, place.namespace, model.name, note)
    await model.serving()
    assert len(model.written("jobs", "create")) == 1
