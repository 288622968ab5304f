"""The table at the end of the demo: phase by phase, a column a start."""

from collections.abc import Mapping, Sequence
from typing import Any

Start = Mapping[str, Any]


def table(starts: Sequence[tuple[str, Start]]) -> str:
    """`starts`: a title and an entry of status.starts for each column."""
    rows = [("stage", "phase", *(title for title, _ in starts))]
    for stage, phase in _phases_in_order([start for _, start in starts]):
        rows.append((stage, phase, *(_seconds(_milliseconds(start, stage, phase)) for _, start in starts)))
    rows.append(("", "total", *(_seconds(start["totalMilliseconds"]) for _, start in starts)))
    rows.append(("", "cache", *(str(start.get("cache", "")) for _, start in starts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(_cell(cell, width, column) for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-2], rule, *lines[-2:]])


def _cell(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def _phases_in_order(starts: Sequence[Start]) -> list[tuple[str, str]]:
    """Each phase once, in the order in which the starts went through them: the fullest start leads."""
    ordered: list[tuple[str, str]] = []
    for start in starts:
        place = 0
        for phase in start["phases"]:
            key = (phase["stage"], phase["name"])
            if key in ordered:
                place = ordered.index(key) + 1
            else:
                ordered.insert(place, key)
                place += 1
    return ordered


def _milliseconds(start: Start, stage: str, name: str) -> int | None:
    found = [phase["milliseconds"] for phase in start["phases"] if (phase["stage"], phase["name"]) == (stage, name)]
    return sum(found) if found else None


def _seconds(milliseconds: int | None) -> str:
    return "·" if milliseconds is None else f"{milliseconds / 1000:.2f} s"
