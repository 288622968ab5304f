import asyncio

import pytest

from neuronmodel_operator.runtime.turns import IN_A_ROW, Turns, Urgency


class Stopwatch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def _queue(turns: Turns, order: list[str], *names: str) -> list[asyncio.Task[None]]:
    """Names begin with what they are: n for new, b for begun, c for changed, else patient."""
    urgencies = {"n": Urgency.NEW, "b": Urgency.BEGUN, "c": Urgency.CHANGED}

    async def one(name: str) -> None:
        async with turns.turn(urgencies.get(name[0], Urgency.PATIENT)):
            order.append(name)

    tasks = [asyncio.create_task(one(name)) for name in names]
    await asyncio.sleep(0)
    return tasks


async def test_what_is_urgent_comes_first_but_holds_the_rest_up_only_for_a_few_turns() -> None:
    turns, order = Turns(1, Stopwatch()), list[str]()
    changed = [f"c{number}" for number in range(2 * IN_A_ROW)]
    async with turns.turn(Urgency.PATIENT):
        tasks = await _queue(turns, order, "r1", "r2", "r3", *changed)
        assert turns.num_waiting == len(tasks)
    await asyncio.gather(*tasks)
    assert order == [*changed[:IN_A_ROW], "r1", *changed[IN_A_ROW:], "r2", "r3"]


async def test_what_is_new_comes_before_what_has_changed_and_every_queue_gets_turns() -> None:
    turns, order = Turns(1, Stopwatch()), list[str]()
    new = [f"n{number}" for number in range(40)]
    async with turns.turn(Urgency.PATIENT):
        tasks = await _queue(turns, order, "r1", *(f"c{number}" for number in range(20)), *new)
    await asyncio.gather(*tasks)
    assert order[:IN_A_ROW] == new[:IN_A_ROW]
    assert order[IN_A_ROW] == "c0"
    last_new = order.index(new[-1])
    assert "r1" in order[:last_new]
    assert len([name for name in order[:last_new] if name.startswith("c")]) >= 7


async def test_those_without_a_status_come_before_those_that_have_one_alone_and_these_before_what_changed() -> None:
    turns, order = Turns(1, Stopwatch()), list[str]()
    async with turns.turn(Urgency.PATIENT):
        tasks = await _queue(turns, order, "c1", "c2", "b1", "b2", "n1", "n2")
    await asyncio.gather(*tasks)
    assert order == ["n1", "n2", "b1", "b2", "c1", "c2"]


async def test_no_more_run_at_once_than_there_are_turns() -> None:
    turns, at_once, most = Turns(3, Stopwatch()), 0, 0

    async def one(urgency: Urgency) -> None:
        nonlocal at_once, most
        async with turns.turn(urgency):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*(one(Urgency(number % len(Urgency))) for number in range(40)))
    assert (most, turns.num_waiting) == (3, 0)


@pytest.mark.parametrize("was_given", [False, True])
async def test_whoever_is_cancelled_while_waiting_leaves_its_turn_to_others(was_given: bool) -> None:
    turns, order = Turns(1, Stopwatch()), list[str]()
    async with turns.turn(Urgency.CHANGED):
        cancelled, other = await _queue(turns, order, "c1", "c2")
        if not was_given:
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
    if was_given:
        cancelled.cancel()
    await asyncio.gather(cancelled, other, return_exceptions=True)
    assert order == ["c2"]
    async with asyncio.timeout(1):
        async with turns.turn(Urgency.PATIENT):
            assert turns.num_waiting == 0


async def test_it_is_stalled_while_somebody_waits_and_nobody_gets_a_turn() -> None:
    clock = Stopwatch()
    turns, order = Turns(1, clock), list[str]()
    clock.now = 50.0
    async with turns.turn(Urgency.CHANGED):
        clock.now = 60.0
        assert turns.stalled_seconds == 0.0
        tasks = await _queue(turns, order, "c1", "r1")
        clock.now = 67.0
        assert turns.stalled_seconds == 7.0
    await asyncio.gather(*tasks)
    assert turns.stalled_seconds == 0.0
