"""Phases add up whatever the boundaries are."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronmodel_api.report import Stage
from neuronmodel_operator.accounting import after_prepare
from neuronmodel_operator.boundaries import Span, phases, pull_duration

ORIGIN = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
MOMENTS = st.integers(-5_000, 600_000).map(lambda ms: ORIGIN + timedelta(milliseconds=ms))
NAMES = st.sampled_from(["Queued", "Starting", "Booted", "Read", "Sharded", "PreviousStopped"])


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
    )


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(spans(), max_size=12), MOMENTS)
def test_phases_add_up_to_the_total_for_any_boundaries(known: list[Span], end: datetime) -> None:
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


def test_a_floored_time_gives_way_to_the_clock_of_the_worker() -> None:
    found = phases(ORIGIN, [span("Read", 0, 2.4), span("Announced", 2.0, 3.0)])
    assert [(phase.name, phase.milliseconds) for phase in found] == [("Read", 2400), ("Announced", 600)]


def test_phases_side_by_side_share_the_time_and_each_keeps_its_own() -> None:
    """Compiled beside Sharded for six of ten seconds."""
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
