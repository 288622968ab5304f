"""Phases add up wherever they start and end."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronmodel_api.phases import StartPhase
from neuronmodel_api.report import Stage
from neuronmodel_operator.status.starts import after_prepare
from neuronmodel_operator.status.timeline import Span, phases, pull_duration, recorded_span

ORIGIN = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
MOMENTS = st.integers(-5_000, 600_000).map(lambda ms: ORIGIN + timedelta(milliseconds=ms))
NAMES = st.sampled_from(["Queued", "Starting", "Booted", "Read", "Sharded", "PreviousStopped", "Blocked", "Blocked"])


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start, end = draw(MOMENTS), draw(MOMENTS)
    stage, attempt = draw(st.sampled_from([Stage.PREPARE, Stage.SERVE])), draw(st.integers(1, 3))
    return Span(
        stage,
        attempt,
        draw(NAMES),
        start,
        end,
        draw(st.none() | st.integers(0, 9_000)),
        draw(st.none() | st.integers(0, 10**12)),
        draw(st.sampled_from([None, "QuotaExceeded", "NoImage"])),
    )


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(spans(), max_size=12), MOMENTS)
def test_phases_add_up_to_the_total_for_any_start_and_end_times(known: list[Span], end: datetime) -> None:
    found = phases(ORIGIN, known, end)
    assert sum(phase.milliseconds for phase in found) == max(0, (end - ORIGIN) // timedelta(milliseconds=1))


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(spans(), max_size=12))
def test_phases_follow_one_another_without_gap_or_overlap(known: list[Span]) -> None:
    cursor = ORIGIN
    for phase in phases(ORIGIN, known):
        assert phase.started_at == cursor
        assert phase.milliseconds >= 0
        cursor += timedelta(milliseconds=phase.milliseconds)


def moments(spans: Iterable[Span]) -> set[int]:
    """The milliseconds that they cover."""
    covered: set[int] = set()
    for each in spans:
        covered.update(range(*((moment - ORIGIN) // timedelta(milliseconds=1) for moment in (each.start, each.end))))
    return covered


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(spans(), max_size=12), MOMENTS)
def test_no_time_is_blocked_twice_nor_while_a_worker_is_at_work(known: list[Span], end: datetime) -> None:
    known = [replace(span, end=max(span.start, span.end)) for span in known]
    own = [span for span in known if span.name in ("Booted", "Read", "Sharded")]
    blocked = [span for span in known if span.name == StartPhase.BLOCKED]
    possible = moments(blocked) - moments(own)
    found = [phase for phase in phases(ORIGIN, known, end) if phase.name == StartPhase.BLOCKED]
    assert sum(phase.milliseconds for phase in found) <= len([ms for ms in possible if ms >= 0])


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(spans(), max_size=12), MOMENTS)
def test_phases_that_were_recorded_say_the_same_again(known: list[Span], end: datetime) -> None:
    found = phases(ORIGIN, [span for span in known if span.name == StartPhase.BLOCKED], end)
    again = phases(ORIGIN, [recorded_span(phase) for phase in found if phase.name == StartPhase.BLOCKED], end)
    assert again == found


def span(name: str, start: float, end: float, stage: Stage = Stage.SERVE, attempt: int = 1) -> Span:
    return Span(stage, attempt, name, ORIGIN + timedelta(seconds=start), ORIGIN + timedelta(seconds=end))


@pytest.mark.parametrize(
    ("before", "after", "gap"),
    [
        (None, span("Queued", 2, 3, Stage.PREPARE), "Reconciled"),
        (span("Sharded", 0, 1, Stage.PREPARE), span("Queued", 2, 3), "HandedOver"),
        (span("Sharded", 0, 1, Stage.PREPARE), span("Queued", 2, 3, Stage.PREPARE, 2), "BackedOff"),
        (span("PreviousStopped", 0, 0), span("Queued", 2, 3), "PreviousStopped"),
        (span("Booted", 0, 1), span("Read", 2, 3), "Unaccounted"),
    ],
)
def test_a_gap_is_named_for_what_it_waited_for(before: Span | None, after: Span, gap: str) -> None:
    found = phases(ORIGIN, [span for span in (before, after) if span])
    assert gap in [phase.name for phase in found]


def blocked(start: float, end: float, stage: Stage = Stage.SERVE, attempt: int = 1) -> Span:
    return replace(span(StartPhase.BLOCKED, start, end, stage, attempt), reason="QuotaExceeded")


PREPARED = span("Sharded", 0, 1, Stage.PREPARE)


@pytest.mark.parametrize(
    ("known", "names"),
    [
        ([blocked(1, 4), span("Queued", 5, 6)], "Reconciled Blocked Reconciled Queued"),
        ([PREPARED, blocked(2, 4), span("Queued", 5, 6)], "Sharded HandedOver Blocked HandedOver Queued"),
        (
            [PREPARED, blocked(2, 4, Stage.PREPARE, 2), span("Queued", 5, 6, Stage.PREPARE, 2)],
            "Sharded BackedOff Blocked BackedOff Queued",
        ),
        ([span("Starting", 0, 9), blocked(2, 4)], "Starting Blocked Starting"),
        ([span("Read", 0, 9), blocked(2, 4)], "Read"),
        ([span("Read", 0, 3), blocked(2, 4)], "Read Blocked"),
        ([span("Queued", 0, 1), blocked(1, 1)], "Queued Blocked"),
        ([blocked(1, 1)], "Reconciled Blocked"),
        (
            [span("Queued", 0, 9), blocked(2, 4), replace(blocked(4, 6), reason="NoImage")],
            "Queued Blocked Blocked Queued",
        ),
    ],
    ids=[
        "before a pod",
        "handing over",
        "backing off",
        "starting",
        "at work",
        "at work first",
        "lasting",
        "alone",
        "two",
    ],
)
def test_what_is_blocked_interrupts_a_wait_and_no_worker(known: list[Span], names: str) -> None:
    assert " ".join(phase.name for phase in phases(ORIGIN, known)) == names


def test_a_floored_time_gives_way_to_the_clock_of_the_worker() -> None:
    found = phases(ORIGIN, [span("Read", 0, 2.4), span("Announced", 2.0, 3.0)])
    assert [(phase.name, phase.milliseconds) for phase in found] == [("Read", 2400), ("Announced", 600)]


def test_phases_side_by_side_share_the_time_and_each_keeps_its_own() -> None:
    """Compiled runs concurrently with Sharded for six of ten seconds."""
    sharded = replace(span("Sharded", 0, 6, Stage.PREPARE), busy_milliseconds=6000, bytes=12_000)
    compiled = replace(span("Compiled", 6, 10, Stage.PREPARE), busy_milliseconds=10_000, bytes=5_000)
    found = phases(ORIGIN, [compiled, sharded])
    assert [(p.name, p.milliseconds, p.busy_milliseconds, p.bytes_per_second) for p in found] == [
        ("Sharded", 6000, 6000, 2000),
        ("Compiled", 4000, 10_000, 500),
    ]


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ('Successfully pulled image "w:1" in 793ms (1.2s including waiting). Image size: 77 bytes.', 1.2),
        ('Successfully pulled image "w:1" in 1m2.5s (1m2.5s including waiting). Image size: 77 bytes.', 62.5),
        ('Successfully pulled image "w:1" in 45ms', 0.045),
    ],
)
def test_the_kubelets_own_figure_for_a_pull_is_read(message: str, seconds: float) -> None:
    assert pull_duration(message) == timedelta(seconds=seconds)


def test_an_image_that_was_there_has_no_pull() -> None:
    assert pull_duration('Container image "w:1" already present on machine') is None


@pytest.mark.parametrize(("made", "began"), [(1.0, 1.9), (1.9, 1.9), (2.0, 2.0), (0.5, 0.5)])
def test_a_pod_made_in_the_second_in_which_prepare_ended_comes_after_it(made: float, began: float) -> None:
    """Half a second before that second it cannot be: it belongs to what was prepared before."""
    prepared = span("Sharded", 0, 1.9, Stage.PREPARE)
    queued = span("Queued", made, max(made, 1.0))
    (serving,) = (each for each in after_prepare([prepared, queued]) if each.stage is Stage.SERVE)
    assert serving.start == ORIGIN + timedelta(seconds=began)
    assert serving.end >= serving.start
