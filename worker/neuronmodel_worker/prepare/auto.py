"""What `strategy: Auto` chooses, and why: a pure function of measured rates. docs/strategies.md has the formula."""

import textwrap
from dataclasses import dataclass
from typing import Final

from neuronmodel_api.config import History, Seal, Strategy
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTE, Choice

ON_COMPILE: Final = Strategy.SHARD_ON_COMPILE
ON_LOAD: Final = Strategy.SHARD_ON_LOAD

PRIOR_STARTS: Final = 4
"""How many starts the same weights are assumed to have before there is a history: nodes, images and specs change more
often than weights. It counts as much as one change of the weights after that many starts, so the five starts that a
status records can outweigh it."""
MARGIN: Final = 0.8
"""The other strategy replaces the former one only if its cost is at most this fraction of the former one's."""
MAX_STARTS: Final = 999_999.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Sizes in bytes and rates in bytes per second; a rate of 0 is unknown. `load…` is the rate at which a start shards
    the checkpoint; `read…` and `write…` are rates of the artifacts volume."""

    source_bytes: int
    shard_bytes: int
    load_bytes_per_second: int
    read_bytes_per_second: int
    write_bytes_per_second: int
    starts_per_source: float
    sealed: bool = False
    """Whether shards of this key exist, so that building them costs nothing."""
    seal: Seal = Seal.BEFORE
    fits: bool = True
    """Whether the artifacts volume has space for the shards."""
    former: Strategy | None = None


def starts_per_source(history: History | None) -> float:
    """Returns how often the same weights are expected to be loaded. The current weights count as not yet changed."""
    if history is None or not history.starts:
        return float(PRIOR_STARTS)
    changes = max(history.sources, 1) - 1
    return min((history.starts + PRIOR_STARTS) / (changes + 1), MAX_STARTS)


def choose(figures: Figures) -> Choice:
    """Returns the strategy with the shorter starts, their share of the building included. The former strategy stays
    unless the other one is clearly better."""
    if not figures.source_bytes or not (figures.load_bytes_per_second and figures.read_bytes_per_second):
        return _unmeasured(figures)
    costs = costs_of(figures)
    cheaper = ON_COMPILE if costs.on_compile < costs.on_load else ON_LOAD
    if not figures.fits and not figures.sealed:
        return _choice(
            figures, costs, ON_LOAD, Reason.TOO_LITTLE_ROOM, "The artifacts volume has no room for the shards"
        )
    former = figures.former if figures.former in (ON_COMPILE, ON_LOAD) else None
    if former and former is not cheaper and costs.of(cheaper) > MARGIN * costs.of(former):
        what = f"{cheaper} would be better by less than {1 - MARGIN:.0%}, too little to leave {former}"
        return _choice(figures, costs, former, Reason.TOO_LITTLE_DIFFERENCE, what)
    if cheaper is ON_COMPILE:
        return _choice(figures, costs, ON_COMPILE, Reason.SHARDS_LOAD_FASTER, "Sealed shards load faster")
    if costs.read < costs.on_load:
        what = "The same weights are loaded too seldom for shards to pay"
        return _choice(figures, costs, ON_LOAD, Reason.WEIGHTS_CHANGE_OFTEN, what)
    return _choice(figures, costs, ON_LOAD, Reason.SOURCE_LOADS_FASTER, "The checkpoint loads as fast as shards would")


@dataclass(frozen=True, slots=True)
class Costs:
    """The expected seconds that a start spends loading; `read` is the time for sealed shards alone."""

    on_compile: float
    on_load: float
    read: float

    def of(self, strategy: Strategy) -> float:
        return self.on_compile if strategy is ON_COMPILE else self.on_load


def costs_of(figures: Figures) -> Costs:
    """Returns the costs. Both reading rates have to be known; an unknown writing rate is taken to be the reading
    rate."""
    load = figures.source_bytes / figures.load_bytes_per_second
    read = figures.shard_bytes / figures.read_bytes_per_second
    write = figures.shard_bytes / (figures.write_bytes_per_second or figures.read_bytes_per_second)
    starts = max(figures.starts_per_source, 1.0)
    if figures.sealed:
        building = 0.0
    elif figures.seal is Seal.BEHIND:
        # The first start shards the checkpoint itself, and writes the shards while it answers.
        building = write + load - read
    else:
        building = load + write
    return Costs(read + building / starts, load, read)


def _unmeasured(figures: Figures) -> Choice:
    if figures.former in (ON_COMPILE, ON_LOAD) and figures.former:
        strategy, why = figures.former, "which was in force"
    elif figures.sealed:
        strategy, why = ON_COMPILE, "whose shards are there"
    else:
        strategy, why = ON_LOAD, "which builds nothing"
    message = f"The rates of the disks are not known: too few bytes, or a probe failed. It is {strategy}, {why}."
    return _to_choice(figures, strategy, Reason.RATES_UNKNOWN, message, None)


def _choice(figures: Figures, costs: Costs, strategy: Strategy, reason: Reason, what: str) -> Choice:
    built = " (sealed already)" if figures.sealed else f", building shared by {starts_text(figures)} starts"
    message = (
        f"{what}: a start is expected to load in {seconds(costs.on_compile)} from shards{built}, and in "
        f"{seconds(costs.on_load)} from the checkpoint."
    )
    return _to_choice(figures, strategy, reason, message, costs)


def _to_choice(figures: Figures, strategy: Strategy, reason: Reason, message: str, costs: Costs | None) -> Choice:
    return Choice(
        strategy=strategy,
        reason=reason,
        message=textwrap.shorten(message, MAX_NOTE, placeholder=" …"),
        source_bytes=figures.source_bytes,
        shard_bytes=figures.shard_bytes,
        load_bytes_per_second=figures.load_bytes_per_second,
        read_bytes_per_second=figures.read_bytes_per_second,
        write_bytes_per_second=figures.write_bytes_per_second,
        starts_per_source=starts_text(figures),
        on_compile_milliseconds=_milliseconds(costs.on_compile) if costs else 0,
        on_load_milliseconds=_milliseconds(costs.on_load) if costs else 0,
    )


def starts_text(figures: Figures) -> str:
    return f"{min(figures.starts_per_source, MAX_STARTS):.2f}".rstrip("0").rstrip(".")


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def _milliseconds(value: float) -> int:
    return min(round(value * 1000), 2**40 - 1)
