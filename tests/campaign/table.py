"""The table of docs/reliability.md: what was tried, how often, and what fell."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.campaign.campaign import Told
from tests.campaign.faults_tried import Pattern
from tests.campaign.soak import Soak

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- Written by `make campaign WRITE=1`. -->"
END: Final = "<!-- The end of what is written. -->"
HEAD: Final = ("| kind | what was tried | tried | fell |", "| --- | --- | ---: | ---: |")


@dataclass(frozen=True)
class Row:
    pattern: Pattern
    what: str
    num_tried: int
    num_fell: int

    def __str__(self) -> str:
        return f"| {self.pattern} | {self.what} | {self.num_tried} | {self.num_fell} |"


def rows_of(told: Iterable[Told]) -> list[Row]:
    """A row for each fault of each kind; what did not come about, as it was another run, is not counted."""
    tried: Counter[tuple[Pattern, str]] = Counter()
    fell: Counter[tuple[Pattern, str]] = Counter()
    for each in told:
        if each.was_reached:
            tried[each.tried.pattern, each.tried.what] += 1
            fell[each.tried.pattern, each.tried.what] += bool(each.problems)
    return [Row(pattern, what, count, fell[pattern, what]) for (pattern, what), count in tried.items()]


def table(rows: Iterable[Row]) -> list[str]:
    order = list(Pattern)
    found = sorted(rows, key=lambda row: (order.index(row.pattern), row.what))
    num_tried, num_fell = sum(row.num_tried for row in found), sum(row.num_fell for row in found)
    return [*HEAD, *map(str, found), f"| all | | {num_tried} | {num_fell} |"]


def sentences(told: Sequence[Told], soak: Soak | None, seed: int, minutes: float) -> list[str]:
    num_away = sum(not each.was_reached for each in told)
    found = [
        f"Seed {seed}, {minutes:.0f} minutes on two cores. {num_away} more did not come about, as a write or an event "
        "of that number was not there in that run."
    ]
    if soak and soak.samples:
        first, last = soak.samples[len(soak.samples) // 3], soak.samples[-1]
        acts = ", ".join(f"{count} of “{name}”" for name, count in sorted(soak.acts.items()))
        found.append(
            f"Beside it, {len(soak.trials)} NeuronModels under one operator for {soak.seconds / 60:.0f} minutes, with "
            f"{sum(soak.acts.values())} acts ({acts}), and a fault for every fiftieth request: {len(soak.problems)} "
            f"violations; the operator had {first} after a third and {last} at the end; at most "
            f"{soak.most_events} Events and {soak.most_statuses} status writes of one NeuronModel within a minute."
        )
    return found


def write(lines: Iterable[str]) -> None:
    """Replaces what is between the marks of the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"]))
