"""The clock of a start: phases sum to its time exactly, whatever happened between them."""

import json
import threading
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronmodel_api.report import Failure, Stage, State, parse_report
from neuronmodel_worker.report.clock import FirstLine, RunningPhase, StartClock

EPOCH = datetime(2030, 1, 2, 3, 4, 5, 678000, UTC)
MILLISECOND = 1_000_000


class Hands:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.nanoseconds = 10**15

    def __call__(self) -> int:
        return self.nanoseconds

    def move(self, milliseconds: float) -> None:
        self.nanoseconds += round(milliseconds * MILLISECOND)


def started() -> tuple[StartClock, Hands]:
    hands = Hands()
    first = FirstLine(hands.nanoseconds, int(EPOCH.timestamp() * 1000) * MILLISECOND)
    return StartClock(Stage.SERVE, first, pod_uid="u", spec_hash="h", monotonic=hands), hands


def test_time_before_and_between_phases_belongs_to_the_next_one() -> None:
    clock, hands = started()
    hands.move(100)
    with clock.phase("SourceOpened"):
        hands.move(5)
    hands.move(20)
    with clock.phase("Read"):
        hands.move(7)
    assert [(p.name, p.milliseconds) for p in clock.snapshot().phases] == [("SourceOpened", 105), ("Read", 27)]


def test_time_after_the_last_phase_belongs_to_it() -> None:
    clock, hands = started()
    with clock.phase("WarmedUp"):
        hands.move(5)
    hands.move(3)
    clock.ready()
    hands.move(1000)
    report = clock.snapshot()
    assert [p.milliseconds for p in report.phases] == [8]
    assert report.ready_at == EPOCH + timedelta(milliseconds=8)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=12), st.floats(0, 20))
def test_phases_sum_to_the_start_exactly(steps: list[tuple[float, float]], after: float) -> None:
    clock, hands = started()
    for number, (before, during) in enumerate(steps):
        hands.move(before)
        with clock.phase(f"Phase{number}"):
            hands.move(during)
    hands.move(after)
    clock.ready()
    report = clock.snapshot()
    assert report.ready_at is not None
    assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ready_at - report.started_at
    ends = [p.started_at + timedelta(milliseconds=p.milliseconds) for p in report.phases]
    assert [p.started_at for p in report.phases] == [report.started_at, *ends[:-1]]


def test_a_phase_that_fails_is_still_reported() -> None:
    clock, hands = started()

    def fail() -> None:
        with clock.phase("Read"):
            hands.move(40)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    hands.move(2)
    clock.failed(Failure(reason="SourceUnreadable", message="It is gone."))
    report = clock.snapshot()
    assert [(p.name, p.milliseconds) for p in report.phases] == [("Read", 42)]
    assert (report.state, report.ended_at) == (State.FAILED, EPOCH + timedelta(milliseconds=42))


def test_the_phase_under_way_shows_its_progress_and_where_it_began() -> None:
    clock, hands = started()
    with clock.phase("SourceOpened"):
        hands.move(10)
    with clock.phase("Read", total=100) as phase:
        phase.advance(30)
        phase.advance(12)
        hands.move(1)
        report = clock.snapshot()
    assert report.progress is not None
    assert (report.progress.phase, report.progress.done, report.progress.total) == ("Read", 42, 100)
    assert report.progress.started_at == EPOCH + timedelta(milliseconds=10)
    assert clock.snapshot().progress is None
    assert clock.snapshot().phases[-1].bytes == 42


def test_steps_are_no_bytes() -> None:
    clock, _ = started()
    with clock.phase("Compiled", unit="Steps") as phase:
        phase.reach(2, 2)
    assert clock.snapshot().phases[0].bytes is None


def advance(phase: RunningPhase) -> None:
    for _ in range(1000):
        phase.advance(1)


def test_threads_move_a_phase_together() -> None:
    clock, _ = started()
    with clock.phase("Read", total=8000) as phase:
        threads = [threading.Thread(target=advance, args=(phase,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert clock.snapshot().phases[0].bytes == 8000


def test_a_drained_worker_keeps_the_phases_of_its_start() -> None:
    clock, hands = started()
    with clock.phase("WarmedUp"):
        hands.move(5)
    clock.ready()
    hands.move(60_000)
    clock.draining()
    clock.succeeded()
    report = parse_report(json.dumps(clock.snapshot().to_json()))
    assert [p.milliseconds for p in report.phases] == [5]
    assert report.ended_at == EPOCH + timedelta(milliseconds=60_005)
    assert (report.pod_uid, report.spec_hash) == ("u", "h")


def test_of_two_phases_at_once_the_first_to_end_has_the_wall_time_and_the_other_the_rest() -> None:
    clock, hands = started()
    with clock.phase("SourceOpened"):
        hands.move(10)
    with clock.phase("Sharded", total=100) as sharded:
        hands.move(5)
        with clock.phase("Compiled", unit="Steps"):
            hands.move(30)
        hands.move(40)
        sharded.advance(100)
    phases = [(p.name, p.milliseconds, p.busy_milliseconds) for p in clock.snapshot().phases]
    assert phases == [("SourceOpened", 10, None), ("Compiled", 35, 30), ("Sharded", 40, 75)]


def test_phases_side_by_side_in_threads_sum_to_the_start() -> None:
    clock, hands = started()
    both, one_done = threading.Barrier(2), threading.Event()

    def compile_concurrently() -> None:
        with clock.phase("Compiled", unit="Steps"):
            both.wait()
            hands.move(20)
        one_done.set()

    thread = threading.Thread(target=compile_concurrently)
    with clock.phase("Sharded", total=8):
        thread.start()
        both.wait()
        one_done.wait()
        hands.move(7)
    thread.join()
    with clock.phase("Sealed"):
        hands.move(3)
    clock.succeeded()
    report = clock.snapshot()
    phases = [(p.name, p.milliseconds, p.busy_milliseconds) for p in report.phases]
    assert phases == [("Compiled", 20, None), ("Sharded", 7, 27), ("Sealed", 3, None)]
    assert report.ended_at == EPOCH + timedelta(milliseconds=30)


def test_a_failure_in_one_of_two_phases_leaves_both_reported() -> None:
    clock, hands = started()

    def fail() -> None:
        with clock.phase("Sharded"):
            hands.move(1)
            with clock.phase("Compiled"):
                hands.move(4)
                raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        fail()
    assert [(p.name, p.milliseconds) for p in clock.snapshot().phases] == [("Compiled", 5), ("Sharded", 0)]
    assert clock.snapshot().progress is None


def test_of_two_phases_the_one_that_moves_bytes_is_shown() -> None:
    clock, hands = started()
    with clock.phase("EngineImported"), clock.phase("Sharded", total=100) as phase:
        hands.move(2)
        phase.reach(40)
        with clock.phase("Compiled", total=2, unit="Steps"):
            progress = clock.snapshot().progress
    assert progress is not None
    assert (progress.phase, progress.done, progress.total) == ("Sharded", 40, 100)


spans = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.floats(0, 50)), max_size=30)


@given(spans, st.floats(0, 20))
def test_phases_in_any_order_sum_to_the_start_exactly(steps: list[tuple[bool, int, float]], after: float) -> None:
    """Of each step: whether a phase begins or ends, which, and how long it takes until the next."""
    clock, hands = started()
    running: dict[int, AbstractContextManager[RunningPhase]] = {}
    for begins, which, milliseconds in steps:
        if begins and which not in running:
            running[which] = clock.phase(f"Phase{which}")
            running[which].__enter__()
        elif not begins and which in running:
            running.pop(which).__exit__(None, None, None)
        hands.move(milliseconds)
    for each in running.values():
        each.__exit__(None, None, None)
    with clock.phase("Last"):
        hands.move(after)
    clock.ready()
    report = clock.snapshot()
    assert report.ready_at is not None
    assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ready_at - report.started_at
    total = (report.ready_at - report.started_at) // timedelta(milliseconds=1)
    assert all((p.busy_milliseconds or 0) <= total for p in report.phases)


def test_what_was_done_in_vain_becomes_one_phase() -> None:
    clock, hands = started()
    with clock.phase("CompiledLoaded"):
        hands.move(10)
    since = clock.boundary
    for _ in range(3):
        for name in ("Read", "DeviceLoaded"):
            with clock.phase(name, 7) as phase:
                hands.move(20)
                phase.reach(7)
        clock.fold(since, "DevicesAwaited")
    with clock.phase("Read", 7):
        hands.move(5)
    clock.ready()
    report = clock.snapshot()
    assert [(p.name, p.milliseconds) for p in report.phases] == [
        ("CompiledLoaded", 10), ("DevicesAwaited", 120), ("Read", 5),
    ]  # fmt: skip
    assert report.phases[1].bytes is None
