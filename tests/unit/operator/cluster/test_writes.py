"""Writes that are turned down, unanswered or under way, with an API server of the test's own."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from neuronmodel_operator.cluster import writes
from neuronmodel_operator.cluster.client import ApiError
from neuronmodel_operator.cluster.writes import OutdatedError, TurnedDownError, Verb, Writes

KEY = ("Service", "smol")
START = datetime(2026, 1, 1, tzinfo=UTC)
REFUSED = ApiError(422, "Invalid", "spec is wrong")


class Bench:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.woken = 0
        self.longest = 5.0
        self.writes = Writes(
            now=lambda: START + timedelta(seconds=self.seconds),
            monotonic=lambda: self.seconds,
            wake=self.wake,
            longest_pause=lambda: self.longest,
        )

    def wake(self) -> None:
        self.woken += 1

    def are_done(self) -> bool:
        return self.writes.are_done

    async def attempt(self, request: Callable[[], Awaitable[bool]], digest: str = "a", verb: Verb = "write") -> bool:
        with self.writes.of_one_plan():
            return await self.writes.attempt(KEY, verb, digest, request)


async def fine() -> bool:
    return True


def failing(*errors: Exception) -> Callable[[], Awaitable[bool]]:
    """One after the other, and then no more."""
    left = list(errors)

    async def request() -> bool:
        if left:
            raise left.pop(0)
        return True

    return request


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(writes, "MOMENT_SECONDS", 0.0)
    monkeypatch.setattr(writes, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(writes, "LEAST_WAIT_SECONDS", 0.01)
    return Bench()


async def test_what_is_written_is_no_refusal(bench: Bench) -> None:
    assert await bench.attempt(fine)
    assert bench.writes.refusals == ()
    assert bench.writes.retry_in is None
    assert bench.writes.take_written() == (KEY,)
    assert bench.writes.take_written() == ()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 422, 429])
async def test_whatever_is_answered_becomes_a_refusal_with_the_servers_words(bench: Bench, status: int) -> None:
    assert not await bench.attempt(failing(ApiError(status, "Refused", "in these words")))
    (refusal,) = bench.writes.refusals
    assert (refusal.kind, refusal.name, refusal.status, refusal.message) == (*KEY, status, "in these words")
    assert (refusal.since, refusal.retry_seconds) == (START, 5)


@pytest.mark.parametrize("status", [0, 409, 500, 502, 503, 504])
async def test_what_may_be_of_the_moment_is_asked_for_once_more_before_it_counts(bench: Bench, status: int) -> None:
    error = ApiError(status, "Refused", "in these words")
    assert await bench.attempt(failing(error))
    assert [refusal.status for refusal in bench.writes.refusals] == []
    assert not await bench.attempt(failing(error, error))
    assert [refusal.status for refusal in bench.writes.refusals] == [status]


async def test_what_stands_in_the_way_already_is_found_out_by_ourselves(bench: Bench) -> None:
    assert not await bench.attempt(failing(TurnedDownError("NameTaken", "it is taken")))
    assert [refusal.reason for refusal in bench.writes.refusals] == ["NameTaken"]


async def test_it_is_tried_again_every_few_seconds_and_not_before(bench: Bench) -> None:
    pauses = []
    for _ in range(6):
        await bench.attempt(failing(REFUSED))
        pauses.append(bench.writes.retry_in)
        assert not bench.writes.may_try(KEY, "write", "a")
        bench.seconds += pauses[-1] or 0
        assert bench.writes.may_try(KEY, "write", "a")
    assert pauses == [1, 2, 4, 5, 5, 5]


async def test_another_manifest_is_tried_at_once(bench: Bench) -> None:
    await bench.attempt(failing(REFUSED))
    assert bench.writes.may_try(KEY, "write", "b")


async def test_the_api_servers_own_pause_is_kept_to(bench: Bench) -> None:
    await bench.attempt(failing(ApiError(429, "TooManyRequests", "slow down", retry_after=30.0)))
    assert bench.writes.retry_in == 30
    assert bench.writes.refusals[0].retry_seconds == 30


async def test_since_when_stays_and_a_number_in_the_words_changes_nothing(bench: Bench) -> None:
    await bench.attempt(failing(ApiError(429, "TooManyRequests", "request 17 of 4f2a11 is too much")))
    before = bench.writes.refusals
    bench.seconds = 60
    await bench.attempt(failing(ApiError(429, "TooManyRequests", "request 18 of 9c0b77 is too much")))
    assert bench.writes.refusals == before
    bench.seconds = 90
    await bench.attempt(failing(REFUSED))
    refusal = bench.writes.refusals[0]
    assert (refusal.reason, refusal.since) == ("Invalid", START)


async def test_a_quotas_numbers_are_reported_as_they_are_now_and_what_differs_each_time_is_not(bench: Bench) -> None:
    def over(used: int, request: str) -> ApiError:
        return ApiError(403, "Forbidden", f"exceeded quota: few, used: {used}, limited: 3 (request {request})")

    await bench.attempt(failing(over(3, "6f1c2a90-0000-4000-8000-0000000000a1")))
    before = bench.writes.refusals
    await bench.attempt(failing(over(3, "6f1c2a90-0000-4000-8000-0000000000b2")))
    assert bench.writes.refusals == before
    await bench.attempt(failing(over(5, "6f1c2a90-0000-4000-8000-0000000000b2")))
    (refusal,) = bench.writes.refusals
    assert "used: 5" in refusal.message
    assert refusal.since == START


async def test_an_answer_that_does_not_come_keeps_no_pass_waiting_and_wakes_when_it_does(bench: Bench) -> None:
    answer = asyncio.Event()

    async def slow() -> bool:
        await answer.wait()
        return True

    assert not await bench.attempt(slow)
    (refusal,) = bench.writes.refusals
    assert (refusal.reason, refusal.status) == ("NoAnswer", 0)
    assert not bench.writes.may_try(KEY, "write", "another"), "one at a time"
    assert bench.writes.retry_in is None, "nothing is due while it is under way"
    assert not bench.are_done()
    answer.set()
    await asyncio.sleep(0.01)
    assert bench.woken == 1
    assert bench.are_done()
    assert bench.writes.refusals == ()
    assert bench.writes.take_written() == (KEY,)


async def test_what_a_slow_answer_says_replaces_that_there_was_none_and_stays_while_it_is_tried(bench: Bench) -> None:
    answer = asyncio.Event()

    async def slow() -> bool:
        await answer.wait()
        raise ApiError(500, "InternalError", "failed calling webhook")

    await bench.attempt(slow)
    answer.set()
    await asyncio.sleep(0.05)
    assert [refusal.reason for refusal in bench.writes.refusals] == ["InternalError"]
    answer.clear()
    await bench.attempt(slow)
    assert [refusal.reason for refusal in bench.writes.refusals] == ["InternalError"]
    bench.writes.close()


async def test_a_slow_write_that_is_outdated_is_retried_at_once_and_reported_as_before(bench: Bench) -> None:
    answer = asyncio.Event()

    async def slow() -> bool:
        await answer.wait()
        raise OutdatedError

    assert not await bench.attempt(slow)
    reported = bench.writes.refusals
    bench.seconds = 3
    answer.set()
    await asyncio.sleep(0.01)
    assert bench.woken == 1
    assert bench.writes.refusals == reported
    assert bench.writes.may_try(KEY, "write", "a")
    assert await bench.attempt(fine)
    assert bench.writes.refusals == ()


async def test_a_write_that_is_outdated_at_once_is_no_refusal(bench: Bench) -> None:
    assert not await bench.attempt(failing(OutdatedError()))
    assert bench.writes.refusals == ()
    assert bench.writes.may_try(KEY, "write", "a")


async def test_several_that_are_not_answered_hold_up_the_status_as_long_as_one(bench: Bench) -> None:
    async def never() -> bool:
        await asyncio.Event().wait()
        return True

    loop = asyncio.get_running_loop()
    began = loop.time()
    with bench.writes.of_one_plan():
        for name in ("a", "b", "c", "d"):
            await bench.writes.attempt(("Job", name), "write", "", never)
    assert len(bench.writes.refusals) == 4
    assert loop.time() - began >= 0.05
    waited = [task for task in asyncio.all_tasks() if not task.done()]
    bench.writes.close()
    await asyncio.sleep(0)
    assert len([task for task in waited if not task.done()]) == len(waited) - 4
    assert bench.woken == 0, "what is given up wakes nobody"


async def test_what_is_no_longer_planned_stands_in_nobodys_way(bench: Bench) -> None:
    await bench.attempt(failing(REFUSED))
    bench.writes.forget_all_but({(*KEY, "delete")})
    assert bench.writes.refusals == ()


async def test_a_deletion_is_a_write_of_its_own_and_ends_a_refusal_to_change_what_went(bench: Bench) -> None:
    await bench.attempt(failing(REFUSED))
    await bench.attempt(failing(REFUSED), verb="delete")
    assert [refusal.verb for refusal in bench.writes.refusals] == ["delete", "write"]
    bench.seconds = 60
    await bench.attempt(fine, verb="delete")
    assert bench.writes.refusals == ()
    assert bench.writes.take_written() == (KEY,), "what was deleted is reported like what was created"
