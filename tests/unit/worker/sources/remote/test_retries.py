"""How long a source is waited for, by a clock of the test's own."""

import threading
from collections.abc import Callable

import pytest

from neuronmodel_worker.sources.remote.refusals import SourceRateLimited, SourceUnreachable
from neuronmodel_worker.sources.remote.retries import MOST_ATTEMPTS, Retry, RetryBudget
from tests.waiting import PATIENCE_SECONDS


class Clock(threading.Event):
    """A clock, and an event for which nothing waits: a wait moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self.now += timeout
        return self.is_set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> RetryBudget:
    made = RetryBudget("https://hub.example", pause_seconds=0.25, monotonic=clock)
    monkeypatch.setattr(made, "_interrupted", clock)
    monkeypatch.setattr("neuronmodel_worker.sources.remote.retries.LONGEST_PAUSE_SECONDS", 15.0)
    return made


def answering(*answers: object) -> Callable[[], object]:
    """An attempt that raises or returns these, one after the other, and the last of them for ever."""
    left = list(answers)

    def attempt() -> object:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return attempt


def test_an_answer_is_returned_at_once(budget: RetryBudget, clock: Clock) -> None:
    assert budget.run(answering("answer")) == "answer"
    assert (clock.waits, budget.traffic.requests, budget.traffic.retries) == ([], 1, 0)


def test_where_nothing_ever_came_three_attempts_are_made(budget: RetryBudget, clock: Clock) -> None:
    with pytest.raises(SourceUnreachable, match=r"https://hub.example cannot be reached: no route"):
        budget.run(answering(Retry("no route")))
    assert (budget.traffic.requests, budget.traffic.retries, len(clock.waits)) == (3, 2, 2)


def test_what_came_of_one_kind_is_no_reason_to_wait_for_another(budget: RetryBudget) -> None:
    budget.run(answering("answer"))
    before = budget.traffic.requests
    with pytest.raises(SourceUnreachable, match=r"https://cdn.example cannot be reached"):
        budget.run(answering(Retry("refused", at="https://cdn.example")), "ranges")
    assert budget.traffic.requests - before == 3


def test_where_something_came_it_is_waited_for_ten_silent_minutes(budget: RetryBudget, clock: Clock) -> None:
    budget.run(answering("answer"))
    began = clock.now
    with pytest.raises(SourceUnreachable, match="no route"):
        budget.run(answering(Retry("no route")))
    assert 600 < clock.now - began < 620
    assert max(clock.waits) <= 15


def test_an_outage_of_less_than_ten_minutes_is_survived(budget: RetryBudget, clock: Clock) -> None:
    budget.run(answering("answer"))
    ends = clock.now + 590

    def attempt() -> str:
        if clock.now < ends:
            raise Retry("bad gateway")
        return "answer"

    assert budget.run(attempt) == "answer"


def test_while_others_get_answers_one_request_still_ends(budget: RetryBudget) -> None:
    budget.run(answering("answer"))

    def attempt() -> str:
        budget.run(answering("answer"))
        raise Retry("this one alone fails")

    before = budget.traffic.requests
    with pytest.raises(SourceUnreachable, match="this one alone fails"):
        budget.run(attempt)
    assert budget.traffic.requests - before == 2 * MOST_ATTEMPTS


def test_pauses_grow_and_half_of_them_is_random(budget: RetryBudget, clock: Clock) -> None:
    budget.run(answering("answer"))
    budget.run(answering(*[Retry("busy")] * 7, "answer"))
    longest = [0.5, 1, 2, 4, 8, 15, 15]
    assert all(most / 2 <= wait <= most for wait, most in zip(clock.waits, longest, strict=True))


def test_other_errors_are_raised_as_they_are(budget: RetryBudget) -> None:
    with pytest.raises(KeyError):
        budget.run(answering(KeyError("other")))
    assert budget.traffic.requests == 1


def test_a_rate_limit_is_waited_for_as_the_server_asks(budget: RetryBudget, clock: Clock) -> None:
    assert budget.run(answering(*[Retry("limited", 55)] * 3, "answer")) == "answer"
    assert all(55 <= wait <= 56 for wait in clock.waits)
    assert budget.traffic.limited.seconds == pytest.approx(sum(clock.waits))
    assert (budget.traffic.requests, budget.traffic.retries) == (4, 0), "a wait that was asked for is no failure"


def test_a_rate_limit_of_more_than_five_minutes_is_given_up(budget: RetryBudget, clock: Clock) -> None:
    with pytest.raises(SourceRateLimited, match=r"https://hub.example limits the rate.* 301 s more.*give a token"):
        budget.run(answering(Retry("limited", 301)))
    assert clock.waits == []


def test_rate_limits_of_one_request_add_up(budget: RetryBudget, clock: Clock) -> None:
    with pytest.raises(SourceRateLimited, match="120 s more"):
        budget.run(answering(Retry("limited", 120)))
    assert len(clock.waits) == 2
    assert budget.run(answering(Retry("limited", 120), "answer")) == "answer", "of another request"


class EndlessWait(threading.Event):
    """An event whose wait ends only when it is set, however slow the machine is that sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout
        self.began.set()
        return super().wait()


@pytest.mark.parametrize("after_seconds", [None, 250.0])
def test_an_interrupt_ends_a_wait_in_another_thread(
    after_seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, wait, failures = RetryBudget("the hub"), EndlessWait(), list[BaseException]()
    monkeypatch.setattr(budget, "_interrupted", wait)
    attempts = iter(range(10))

    def attempt() -> str:
        next(attempts)
        raise Retry("busy", after_seconds)

    def ask() -> None:
        try:
            budget.run(attempt)
        except SourceUnreachable as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert wait.began.wait(PATIENCE_SECONDS)
    budget.interrupt()
    thread.join()
    assert next(attempts) == 1, "no attempt after the interrupt"
    assert "stop waiting" in str(failures[0])


def test_after_an_interrupt_nothing_is_asked(budget: RetryBudget) -> None:
    budget.interrupt()
    with pytest.raises(SourceUnreachable, match="stop waiting"):
        budget.run(answering("answer"))
    assert budget.traffic.requests == 0


def test_counters_are_right_under_many_threads() -> None:
    budget = RetryBudget("the hub", pause_seconds=0.0)

    def ask() -> None:
        for _ in range(100):
            budget.run(answering(Retry("busy"), "answer"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.traffic.requests, budget.traffic.retries) == (1600, 800)
