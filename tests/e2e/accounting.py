"""What must hold of the times of every start."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from neuronmodel_api.status import Outcome, Start

UNACCOUNTED = "Unaccounted"
UNACCOUNTED_FRACTION = 0.02
UNACCOUNTED_MILLISECONDS = 200
CLOCK_SECONDS = 1.0
"""Kubernetes floors its times to these."""
BEHIND_SECONDS, BEHIND_FRACTION = 2.0, 0.25
"""By which the operator notices a change late, and writes of a start that is over late: more where all is slow."""


@dataclass
class Asked:
    """When something was asked of the API server, by time.monotonic(): it took place somewhere between."""

    before: float
    after: float


@dataclass(frozen=True)
class Seen:
    """When a look began that did not show something yet, and when one ended that did."""

    not_yet: float
    at: float


@contextmanager
def asking() -> Iterator[Asked]:
    asked = Asked(time.monotonic(), 0.0)
    yield asked
    asked.after = time.monotonic()


def assert_accounted(start: Start) -> None:
    """The phases add up to the total exactly, and next to none of it is unexplained."""
    assert start.total_milliseconds is not None, start
    assert sum(phase.milliseconds for phase in start.phases) == start.total_milliseconds, table(start)
    unaccounted = sum(phase.milliseconds for phase in start.phases if phase.name == UNACCOUNTED)
    allowed = max(UNACCOUNTED_MILLISECONDS, UNACCOUNTED_FRACTION * start.total_milliseconds)
    assert unaccounted <= allowed, f"{unaccounted} ms of {start.total_milliseconds} are unaccounted for\n{table(start)}"


def assert_agrees_with_stopwatch(start: Start, since: Asked, seen: Seen) -> None:
    """However slowly it is asked and looked here, it lay between two stretches that are known."""
    assert start.total_milliseconds is not None, start
    least, most = max(0.0, seen.not_yet - since.after), seen.at - since.before
    allowed = least - max(BEHIND_SECONDS, BEHIND_FRACTION * least), most + CLOCK_SECONDS
    times = f"the status says {start.total_milliseconds} ms, the stopwatch {least:.2f} to {most:.2f} s\n{table(start)}"
    assert allowed[0] <= start.total_milliseconds / 1000 <= allowed[1], times


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
