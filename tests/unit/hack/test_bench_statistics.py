"""Ratios and verdicts on numbers whose answers are known."""

import pytest

from hack.bench.statistics import Limit, Ratio, fastest, paired, ratio_of


def test_ratios_are_of_runs_in_the_same_round() -> None:
    assert paired({0: 2.0, 1: 9.0, 3: 4.0}, {0: 1.0, 2: 5.0, 3: 8.0}) == [2.0, 0.5]


def test_equal_ratios_leave_no_doubt() -> None:
    assert ratio_of([1.5] * 9) == Ratio(1.5, 1.5, 1.5, 9)


def test_the_interval_is_around_the_median_and_within_the_values() -> None:
    values = [0.8, 0.9, 0.95, 1.0, 1.02, 1.1, 1.15, 1.2, 3.0]
    ratio = ratio_of(values)
    assert ratio.median == 1.02
    # Medians of nine fall below the third or above the seventh of the sorted values in less than 2.5 % of samples each.
    assert (ratio.low, ratio.high) == (0.9, 1.2)


def test_the_same_runs_give_the_same_interval() -> None:
    values = [1.0, 1.3, 0.7, 1.1, 0.9]
    assert ratio_of(values) == ratio_of(values)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.9, 1.15, "met"), (1.0, 1.16, "undecided"), (1.05, 1.16, "undecided"), (1.06, 1.3, "missed")],
)
def test_at_most(low: float, high: float, verdict: str) -> None:
    assert Limit(1.05).verdict(Ratio((low + high) / 2, low, high, 9)) == verdict


def test_a_narrow_interval_above_the_limit_and_within_the_tolerance_is_met() -> None:
    assert Limit(1.05).verdict(Ratio(1.08, 1.07, 1.09, 9)) == "met"


@pytest.mark.parametrize(("low", "high", "verdict"), [(4.9, 9, "met"), (4.8, 5.1, "undecided"), (4.1, 4.8, "missed")])
def test_at_least(low: float, high: float, verdict: str) -> None:
    assert Limit(5, "at least").verdict(Ratio((low + high) / 2, low, high, 3)) == verdict


def test_the_fastest_is_so_by_its_median() -> None:
    one, other = {0: 1.0, 1: 5.0, 2: 5.0}, {0: 4.0, 1: 4.0, 2: 9.0}
    assert fastest({"one": one, "other": other}) == "other"
