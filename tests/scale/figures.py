"""Figures of many that were measured the same way."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Seconds."""

    count: int
    median: float
    p99: float
    most: float

    def __str__(self) -> str:
        return f"median {self.median:.2f} s, p99 {self.p99:.2f} s, most {self.most:.2f} s of {self.count}"


def spread(seconds: Sequence[float]) -> Spread:
    """`p99` is the value that 99 of 100 do not exceed, one of those that were measured."""
    ordered = sorted(seconds)
    return Spread(len(ordered), median(ordered), ordered[ceil(0.99 * len(ordered)) - 1], ordered[-1])
