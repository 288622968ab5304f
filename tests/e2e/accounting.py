"""What must hold of the times of every start."""

from neuronmodel_api.status import Outcome, Start

UNACCOUNTED = "Unaccounted"
UNACCOUNTED_FRACTION = 0.02
UNACCOUNTED_MILLISECONDS = 200
STOPWATCH_SECONDS = 2.0


def assert_accounted(start: Start) -> None:
    """The phases add up to the total exactly, and next to none of it is unexplained."""
    assert start.total_milliseconds is not None, start
    assert sum(phase.milliseconds for phase in start.phases) == start.total_milliseconds, table(start)
    unaccounted = sum(phase.milliseconds for phase in start.phases if phase.name == UNACCOUNTED)
    allowed = max(UNACCOUNTED_MILLISECONDS, UNACCOUNTED_FRACTION * start.total_milliseconds)
    assert unaccounted <= allowed, f"{unaccounted} ms of {start.total_milliseconds} are unaccounted for\n{table(start)}"


def assert_agrees_with_stopwatch(start: Start, seconds: float) -> None:
    assert start.total_milliseconds is not None, start
    off = abs(start.total_milliseconds / 1000 - seconds)
    assert off <= STOPWATCH_SECONDS, f"the status says {start.total_milliseconds} ms, the stopwatch {seconds:.2f} s"


def assert_all_accounted(starts: tuple[Start, ...]) -> None:
    for start in starts:
        if start.outcome == Outcome.READY:
            assert_accounted(start)


def phases(start: Start) -> list[str]:
    return [phase.name for phase in start.phases]


def table(start: Start) -> str:
    lines = [f"{start.id} {start.cause} {start.outcome}: {start.total_milliseconds} ms since {start.started_at}"]
    lines += [f"  {p.stage:8} {p.attempt} {p.name:14} {p.milliseconds:7} ms from {p.started_at}" for p in start.phases]
    return "\n".join(lines)
