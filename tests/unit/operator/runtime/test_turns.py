import asyncio

import pytest

from neuronmodel_operator.runtime.turns import PROMPT_IN_A_ROW, Turns


class Stopwatch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def _queue(turns: Turns, order: list[str], *names: str) -> list[asyncio.Task[None]]:
    """Names that begin with p are prompt."""

    async def one(name: str) -> None:
        async with turns.turn(prompt=name.startswith("p")):
            order.append(name)

    tasks = [asyncio.create_task(one(name)) for name in names]
    await asyncio.sleep(0)
    return tasks


async def test_what_is_prompt_comes_first_but_holds_the_rest_up_only_for_a_few_turns() -> None:
    turns, order = Turns(1, Stopwatch()), list[str]()
    async with turns.turn(prompt=False):
        tasks = await _queue(turns, order, "r1", "r2", "r3", *(f"p{n}" for n in range(2 * PROMPT_IN_A_ROW)))
        assert turns.num_waiting == len(tasks)
    await asyncio.gather(*tasks)
    first, then = order[:PROMPT_IN_A_ROW], order[PROMPT_IN_A_ROW + 1 : 2 * PROMPT_IN_A_ROW + 1]
    assert first == [f"p{n}" for n in range(PROMPT_IN_A_ROW)]
    assert then == [f"p{n}" for n in range(PROMPT_IN_A_ROW, 2 * PROMPT_IN_A_ROW)]
    assert [name for name in order if name.startswith("r")] == ["r1", "r2", "r3"]
    assert order[PROMPT_IN_A_ROW] == "r1"


async def test_no_more_run_at_once_than_there_are_turns() -> None:
    turns, at_once, most = Turns(3, Stopwatch()), 0, 0

    async def one(prompt: bool) -> None:
        nonlocal at_once, most
        async with turns.turn(prompt=prompt):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*(one(number % 3 == 0) for number in range(40)))
    assert (most, turns.num_waiting) == (3, 0)


@pytest.mark.parametrize("was_given", [False, True])
async def test_whoever_is_cancelled_while_waiting_leaves_its_turn_to_others(was_given: bool) -> None:
    turns, order = Turns(1, Stopwatch()), list[str]()
    async with turns.turn(prompt=True):
        cancelled, other = await _queue(turns, order, "p1", "p2")
        if not was_given:
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
    if was_given:
        cancelled.cancel()
    await asyncio.gather(cancelled, other, return_exceptions=True)
    assert order == ["p2"]
    async with asyncio.timeout(1):
        async with turns.turn(prompt=False):
            assert turns.num_waiting == 0


async def test_it_is_stalled_while_somebody_waits_and_nobody_gets_a_turn() -> None:
    clock = Stopwatch()
    turns, order = Turns(1, clock), list[str]()
    clock.now = 50.0
    async with turns.turn(prompt=True):
        clock.now = 60.0
        assert turns.stalled_seconds == 0.0
        tasks = await _queue(turns, order, "p1", "r1")
        clock.now = 67.0
        assert turns.stalled_seconds == 7.0
    await asyncio.gather(*tasks)
    assert turns.stalled_seconds == 0.0
