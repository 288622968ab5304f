"""What `Auto` chooses of which figures, and that it stays with it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronmodel_api.config import History, Seal, Strategy
from neuronmodel_api.report import MAX_NOTE
from neuronmodel_worker.prepare.auto import MARGIN, PRIOR_STARTS, Figures, choose, costs_of, starts_per_source

ON_COMPILE, ON_LOAD = Strategy.SHARD_ON_COMPILE, Strategy.SHARD_ON_LOAD
GB = 10**9

SLOW_SOURCE = Figures(
    source_bytes=800 * GB,
    shard_bytes=870 * GB,
    load_bytes_per_second=1 * GB,
    read_bytes_per_second=4 * GB,
    write_bytes_per_second=2 * GB,
    starts_per_source=PRIOR_STARTS,
)


def test_a_slow_source_that_is_loaded_often_is_sharded_once() -> None:
    choice = choose(SLOW_SOURCE)
    assert (choice.strategy, choice.reason) == (ON_COMPILE, "ShardsLoadFaster")
    # 870 / 4 to read, and a fourth of reading 800 at 1 and writing 870 at 2.
    assert choice.on_compile_milliseconds == 217_500 + (800_000 + 435_000) // 4
    assert choice.on_load_milliseconds == 800_000
    assert choice.starts_per_source == "4"


def test_one_disk_for_everything_makes_shards_useless() -> None:
    choice = choose(replace(SLOW_SOURCE, load_bytes_per_second=4 * GB))
    assert (choice.strategy, choice.reason) == (ON_LOAD, "SourceLoadsFaster")


def test_weights_that_change_with_every_start_are_sharded_as_they_load() -> None:
    choice = choose(replace(SLOW_SOURCE, starts_per_source=1.25))
    assert (choice.strategy, choice.reason, choice.starts_per_source) == (ON_LOAD, "WeightsChangeOften", "1.25")


def test_shards_that_are_there_cost_no_building() -> None:
    seldom = replace(SLOW_SOURCE, starts_per_source=1.0)
    assert choose(seldom).strategy is ON_LOAD
    choice = choose(replace(seldom, sealed=True))
    assert (choice.strategy, choice.on_compile_milliseconds) == (ON_COMPILE, 217_500)
    assert "sealed already" in choice.message


def test_sealing_behind_makes_building_cost_its_writing_alone() -> None:
    """The first start loads as ShardOnLoad does; a second one reads."""
    for starts, seconds in ((1.0, 800 + 435), (2.0, (800 + 435 + 217.5) / 2)):
        costs = costs_of(replace(SLOW_SOURCE, seal=Seal.BEHIND, starts_per_source=starts))
        assert costs.on_compile == pytest.approx(seconds)


def test_the_former_strategy_stays_unless_the_other_is_a_fifth_better() -> None:
    figures = replace(SLOW_SOURCE, sealed=True, read_bytes_per_second=1 * GB, former=ON_LOAD)

    def with_shards_in(seconds: float, former: Strategy) -> tuple[Strategy, str]:
        choice = choose(replace(figures, shard_bytes=round(seconds * GB), former=former))
        return choice.strategy, choice.reason

    assert with_shards_in(790, ON_LOAD) == (ON_LOAD, "TooLittleDifference")
    assert with_shards_in(641, ON_LOAD) == (ON_LOAD, "TooLittleDifference")
    assert with_shards_in(640, ON_LOAD) == (ON_COMPILE, "ShardsLoadFaster")
    assert with_shards_in(999, ON_COMPILE) == (ON_COMPILE, "TooLittleDifference")
    assert with_shards_in(1001, ON_COMPILE) == (ON_LOAD, "SourceLoadsFaster")


def test_without_room_the_checkpoint_is_loaded_unless_the_shards_are_there() -> None:
    choice = choose(replace(SLOW_SOURCE, fits=False, former=ON_COMPILE))
    assert (choice.strategy, choice.reason) == (ON_LOAD, "TooLittleRoom")
    assert choose(replace(SLOW_SOURCE, fits=False, sealed=True)).strategy is ON_COMPILE


@pytest.mark.parametrize(
    "figures", [replace(SLOW_SOURCE, load_bytes_per_second=0), replace(SLOW_SOURCE, read_bytes_per_second=0)]
)
@pytest.mark.parametrize(("former", "chosen"), [(None, ON_LOAD), (ON_COMPILE, ON_COMPILE), (Strategy.AUTO, ON_LOAD)])
def test_without_rates_nothing_is_changed_and_nothing_built(
    figures: Figures, former: Strategy | None, chosen: Strategy
) -> None:
    choice = choose(replace(figures, former=former))
    assert (choice.strategy, choice.reason) == (chosen, "RatesUnknown")
    assert (choice.on_compile_milliseconds, choice.on_load_milliseconds) == (0, 0)


def test_without_rates_shards_that_are_there_are_read() -> None:
    choice = choose(replace(SLOW_SOURCE, load_bytes_per_second=0, sealed=True))
    assert (choice.strategy, choice.reason) == (ON_COMPILE, "RatesUnknown")
    assert "whose shards are there" in choice.message


@pytest.mark.parametrize(
    ("starts", "sources", "expected"),
    [(0, 0, 4), (1, 1, 5), (5, 1, 9), (2, 2, 3), (5, 5, 1.8), (3, 0, 7)],
)
def test_starts_a_source_are_learnt_from_history(starts: int, sources: int, expected: float) -> None:
    assert starts_per_source(History(starts=starts, sources=sources)) == pytest.approx(expected)


def test_without_history_there_is_a_prior() -> None:
    assert starts_per_source(None) == PRIOR_STARTS


figures = st.builds(
    Figures,
    source_bytes=st.integers(0, 10**13),
    shard_bytes=st.integers(0, 10**13),
    load_bytes_per_second=st.integers(0, 10**11),
    read_bytes_per_second=st.integers(0, 10**11),
    write_bytes_per_second=st.integers(0, 10**11),
    starts_per_source=st.floats(1, 2e6),
    sealed=st.booleans(),
    seal=st.sampled_from(Seal),
    fits=st.booleans(),
    former=st.sampled_from([None, *Strategy]),
)


@given(figures)
def test_whatever_the_figures_there_is_a_choice_that_can_be_reported(given: Figures) -> None:
    choice = choose(given)
    assert choice.strategy in (ON_COMPILE, ON_LOAD)
    assert len(choice.message) <= MAX_NOTE
    assert choice.message.endswith(".")


@given(figures)
def test_it_does_not_flap(given: Figures) -> None:
    """Asked again with the same figures it says the same, also when its choice was carried out."""
    first = choose(given).strategy
    again = choose(replace(given, former=first)).strategy
    assert again is first
    if first is ON_COMPILE:
        built = choose(replace(given, former=first, sealed=True)).strategy
        read, load = given.shard_bytes * given.load_bytes_per_second, given.source_bytes * given.read_bytes_per_second
        assert built is first or (given.seal is Seal.BEHIND and read > load)


@given(figures, st.floats(0.9, 1.1))
def test_rates_that_vary_by_a_tenth_change_nothing_that_is_in_force(given: Figures, factor: float) -> None:
    settled = replace(given, former=choose(given).strategy)
    varied = replace(settled, read_bytes_per_second=round(settled.read_bytes_per_second * factor), fits=True)
    if min(settled.read_bytes_per_second, settled.write_bytes_per_second, settled.load_bytes_per_second) < 1000:
        return
    settled = replace(settled, fits=True, former=None)
    settled = replace(settled, former=choose(settled).strategy)
    assert choose(replace(varied, former=settled.former)).strategy is settled.former
    assert MARGIN < 0.9 / 1.1
