"""NeuronModels without a task: when they get one, and when their workers are asked for news."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from neuronmodel_operator.cluster.observe import ModelKey
from neuronmodel_operator.runtime.resting import MAX_BEGUN, LastSeen, Parked, Rest, Resting
from tests.unit.operator.hand_clock import HandClock, breathe


@dataclass
class Reports:
    """Of a NeuronModel's workers."""

    clock: HandClock
    news: bool = False
    has_answers: bool = True
    asked: list[float] = field(default_factory=list)
    hangs: bool = False

    async def has_news(self) -> bool:
        self.asked.append(self.clock.monotonic())
        if self.hangs:
            await asyncio.Event().wait()
        return self.news


@dataclass
class Fleet:
    held: set[str] = field(default_factory=lambda: {"a", "b"})
    begun: list[tuple[str, bool]] = field(default_factory=list)
    clock: HandClock = field(default_factory=HandClock)

    def __post_init__(self) -> None:
        self.resting = Resting(self.begin, self.held.__contains__, self.clock)

    def begin(self, parked: Parked, prompt: bool) -> None:
        self.begun.append((parked.key.uid, prompt))

    def park(self, uid: str, reports: Reports | None = None) -> Reports:
        reports = reports or Reports(self.clock)
        self.resting.park(key(uid), Rest(LastSeen("1", (), ()), reports, is_confirmed=True))
        return reports

    @property
    def uids(self) -> list[str]:
        return [uid for uid, _ in self.begun]


def key(uid: str, namespace: str = "a") -> ModelKey:
    return ModelKey(namespace, uid, uid)


@asynccontextmanager
async def asking(fleet: Fleet) -> AsyncIterator[None]:
    task = asyncio.create_task(fleet.resting.ask_for_news())
    await breathe()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def add(fleet: Fleet, uids: Iterable[str], namespace: str = "a") -> None:
    for uid in uids:
        fleet.resting.add_listed(key(uid, namespace))


def test_whatever_is_parked_begins_once_when_it_is_woken() -> None:
    fleet = Fleet()
    fleet.park("one")
    assert len(fleet.resting) == 1
    assert fleet.resting.uids == {"one"}
    assert fleet.resting.wake("one", prompt=True)
    assert not fleet.resting.wake("one", prompt=True)
    assert not fleet.resting.wake("another", prompt=True)
    assert fleet.begun == [("one", True)]


def test_of_those_that_are_listed_a_few_begin_at_a_time() -> None:
    fleet = Fleet()
    add(fleet, map(str, range(100)))
    assert fleet.begun == [(str(number), False) for number in range(MAX_BEGUN)]
    assert fleet.resting.num_unseen == 100 - MAX_BEGUN
    fleet.resting.looked_at(key("0"))
    fleet.resting.looked_at(key("0"))
    assert fleet.uids[MAX_BEGUN:] == [str(MAX_BEGUN)]
    fleet.resting.forget(key("1"))
    assert fleet.uids[MAX_BEGUN:] == ["32", "33"]


def test_every_namespace_has_its_share() -> None:
    fleet = Fleet(held=set())
    add(fleet, [f"a{number}" for number in range(100)], "a")
    add(fleet, [f"b{number}" for number in range(3)], "b")
    assert fleet.uids == ["a0", "b0"], "one of each finds out whether this operator may act there"
    fleet.held |= {"a", "b"}
    fleet.resting.looked_at(key("a0", "a"))
    assert fleet.uids[2:6] == ["a1", "b1", "a2", "b2"]


def test_in_a_namespace_of_another_operator_one_waits_and_no_more() -> None:
    fleet = Fleet(held={"b"})
    add(fleet, ["a0", "a1"], "a")
    add(fleet, ["b0", "b1"], "b")
    fleet.resting.looked_at(key("a0", "a"))
    assert fleet.uids == ["a0", "b0", "b1"]
    assert fleet.resting.overdue_seconds == 0.0
    fleet.held.add("a")
    fleet.resting.looked_at(key("a0", "a"))
    assert fleet.uids == ["a0", "b0", "b1", "a1"]


def test_one_that_finds_out_and_is_gone_is_followed_by_another() -> None:
    fleet = Fleet(held=set())
    add(fleet, ["a0", "a1"], "a")
    fleet.resting.forget(key("a0", "a"))
    assert fleet.uids == ["a0", "a1"]


def test_one_that_an_event_woke_is_not_begun_again() -> None:
    fleet = Fleet(held=set())
    add(fleet, ["a0", "a1", "a2"], "a")
    assert fleet.resting.wake("a1", prompt=True)
    fleet.held.add("a")
    fleet.resting.looked_at(key("a0", "a"))
    assert fleet.begun == [("a0", False), ("a1", True), ("a2", False)]


async def test_those_that_wait_to_be_looked_at_are_late() -> None:
    fleet = Fleet()
    add(fleet, map(str, range(MAX_BEGUN + 1)))
    await fleet.clock.advance(7)
    assert fleet.resting.overdue_seconds == 7.0
    fleet.resting.looked_at(key("0"))
    assert fleet.resting.overdue_seconds == 0.0


async def test_workers_are_asked_once_a_minute_and_news_begins_a_task() -> None:
    fleet = Fleet()
    reports = fleet.park("one")
    async with asking(fleet):
        await fleet.clock.advance(130)
        assert reports.asked == pytest.approx([60, 120], abs=2)
        assert fleet.begun == []
        reports.news = True
        await fleet.clock.advance(61)
    assert fleet.begun == [("one", False)]


async def test_of_many_no_more_than_some_are_asked_a_second() -> None:
    fleet = Fleet()
    every = [fleet.park(str(number)) for number in range(2000)]
    async with asking(fleet):
        await fleet.clock.advance(72)
        assert 200 <= sum(len(reports.asked) for reports in every) <= 310
        await fleet.clock.advance(75)
    assert all(reports.asked for reports in every)


async def test_a_worker_that_hangs_holds_up_no_other() -> None:
    fleet = Fleet()
    fleet.park("slow", Reports(fleet.clock, hangs=True))
    other = fleet.park("other")
    async with asking(fleet):
        await fleet.clock.advance(130)
    assert len(other.asked) == 2


async def test_who_has_no_worker_or_was_woken_meanwhile_is_not_asked() -> None:
    fleet = Fleet()
    silent, woken = fleet.park("silent", Reports(fleet.clock, has_answers=False)), fleet.park("woken")
    assert fleet.resting.wake("woken", prompt=True)
    async with asking(fleet):
        await fleet.clock.advance(130)
    assert silent.asked == woken.asked == []
