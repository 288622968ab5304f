"""Work in the background gives way to answers, and ends."""

import threading

import pytest

from neuronmodel_worker.serve import background
from neuronmodel_worker.serve.background import Background, ShuttingDown, Throttle
from tests.waiting import PATIENCE_SECONDS


class Times:
    """A clock that only moves when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Waiting(threading.Event):
    def __init__(self, times: Times) -> None:
        super().__init__()
        self._times = times

    def wait(self, timeout: float | None = None) -> bool:
        self._times.now += timeout or 0.0
        return self.is_set()


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Times:
    times = Times()
    monkeypatch.setattr(background, "time", times)
    return times


def test_with_answers_all_the_time_work_takes_five_times_as_long(times: Times) -> None:
    throttle = Throttle(lambda: True, Waiting(times))
    for _ in range(20):
        times.now += 0.5
        throttle.wait()
    assert times.now == pytest.approx(50, rel=0.02)


def test_without_answers_nothing_waits(times: Times) -> None:
    throttle = Throttle(lambda: False, Waiting(times))
    times.now += 1.0
    throttle.wait()
    assert times.now == 1.0


def test_it_goes_on_as_soon_as_the_answer_is_there(times: Times) -> None:
    throttle = Throttle(lambda: times.now < 1.1, Waiting(times))
    times.now += 1.0
    throttle.wait()
    assert times.now == pytest.approx(1.1, abs=0.02)


def test_work_is_done_in_turn_and_a_failure_keeps_none_of_it_from_being_done() -> None:
    done, work = threading.Event(), Background()
    order: list[str] = []

    def failing(_: Throttle) -> None:
        order.append("failing")
        raise ValueError("unforeseen")

    def last(_: Throttle) -> None:
        order.append("last")
        done.set()

    work.submit(failing)
    work.submit(last)
    work.begin(lambda: False)
    assert done.wait(PATIENCE_SECONDS)
    work.stop()
    assert order == ["failing", "last"]


def test_stopping_ends_work_at_its_next_piece_and_begins_no_other() -> None:
    began, ended, work = threading.Event(), list[str](), Background()

    def endless(throttle: Throttle) -> None:
        began.set()
        try:
            while True:
                throttle.wait()
        except ShuttingDown:
            ended.append("stopped")
            raise

    work.submit(endless)
    work.submit(lambda _: ended.append("begun"))
    work.begin(lambda: False)
    assert began.wait(PATIENCE_SECONDS)
    work.stop()
    assert ended == ["stopped"]
