"""Ratios of contenders that ran in the same round, how sure they are, and what follows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 10_000
CONFIDENCE_PERCENT = 95
SEED = 20_250_101
TOLERANCE = 0.10
"""An interval may reach this far past the limit: the noise of a virtual machine's disk is ±20 % a run."""

Verdict = Literal["met", "missed", "undecided"]
Seconds = Mapping[int, float]
"""A contender's seconds by round."""


@dataclass(frozen=True)
class Ratio:
    """The median of ratios paired within a round and its bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Limit:
    value: float
    kind: Literal["at most", "at least"] = "at most"

    def __str__(self) -> str:
        return f"{self.kind} {self.value:g}"

    def verdict(self, ratio: Ratio) -> Verdict:
        """Met when the whole interval keeps the limit but for the tolerance, missed when none of it does."""
        if self.kind == "at most":
            met, missed = ratio.high <= self.value + TOLERANCE, ratio.low > self.value
        else:
            met, missed = ratio.low >= self.value - TOLERANCE, ratio.high < self.value
        return "met" if met else "missed" if missed else "undecided"


def paired(ours: Seconds, theirs: Seconds) -> list[float]:
    """ours / theirs for every round in which both ran."""
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys())]


def ratio_of(values: Sequence[float]) -> Ratio:
    """Percentile bootstrap of the median, with a fixed seed: the same runs give the same interval."""
    sample = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(SEED)
    medians = np.median(generator.choice(sample, (RESAMPLES, len(sample))), axis=1)
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(medians, [tail, 100 - tail])
    return Ratio(float(np.median(sample)), float(low), float(high), len(sample))


def median(values: Sequence[float]) -> float:
    return float(np.median(np.asarray(values, dtype=np.float64)))


def fastest(contenders: Mapping[str, Seconds]) -> str:
    """The contender with the smallest median."""
    return min(contenders, key=lambda name: median(list(contenders[name].values())))
