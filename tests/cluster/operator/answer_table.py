"""The table of docs/reliability.md: what was reported in each case, and the times of one run."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tests.cluster.operator.answers import Case, Times
from tests.paths import PROJECT

PAGE: Final = PROJECT / "docs" / "reliability.md"
HEAD: Final = (
    "| written | the API server answers | where it is told | new: told after | written after | "
    "serving: told after | written after |",
    "| --- | --- | --- | ---: | ---: | ---: | ---: |",
)
_TABLE: Final = r"(?:^\|.*\n)+"


def table(outcomes: Iterable[tuple[Case, Times]]) -> list[str]:
    """A row for each write and answer, in their order."""
    rows: dict[tuple[str, str, str], dict[bool, Times]] = {}
    for case, measured in outcomes:
        rows.setdefault(_labels(case), {})[case.serves] = measured
    return [*HEAD, *(_row(*labels, row) for labels, row in rows.items())]


def _labels(case: Case) -> tuple[str, str, str]:
    held = f", for {case.hold_seconds:.0f} s" if case.is_long else ""
    return case.write.described, case.answer.described + held, case.reported_in


def _row(written: str, answer: str, reported: str, times: Mapping[bool, Times]) -> str:
    cells = [cell for serves in (False, True) for cell in _cells(times.get(serves))]
    return "| " + " | ".join([written, answer, reported, *cells]) + " |"


def _cells(times: Times | None) -> tuple[str, str]:
    return (f"{times.shown:.1f} s", f"{times.recovered:.1f} s") if times else ("", "")


def without_times(rows: list[str]) -> list[str]:
    return [re.sub(r"\d+\.\d s", "… s", row) for row in rows]


def rows_of_page() -> list[str]:
    """Of its first table."""
    found = re.search(_TABLE, PAGE.read_text(), re.MULTILINE)
    return found.group().splitlines() if found else []


def write_table(rows: list[str]) -> None:
    """In the place of the table that is there."""
    written = "".join(f"{row}\n" for row in rows)
    PAGE.write_text(re.sub(_TABLE, lambda _: written, PAGE.read_text(), count=1, flags=re.MULTILINE))
