"""How everything is drawn: on a terminal with colours and bars, elsewhere as plain text."""

import os
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

FULL: Final = "█"
PARTS: Final = " ▏▎▍▌▋▊▉"
"""Eighths of a character."""
COLORS: Final = ("cyan", "green", "yellow", "magenta", "blue", "bright_red", "bright_cyan", "bright_green")
PLAIN_WIDTH: Final = 1000
"""Of what is no terminal: whoever reads it there wants whole lines."""


def console() -> Console:
    """Colours only on a terminal, and not with NO_COLOR."""
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal or "COLUMNS" in os.environ else PLAIN_WIDTH
    return Console(highlight=False, soft_wrap=not is_terminal, width=width)


def table(*columns: str) -> Table:
    """A table as kubectl draws them: without lines."""
    made = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, no_wrap=True)
    return made


def print_whole(out: Console, rows: Table) -> None:
    """Prints a table as wide as it is, as kubectl does: a name that is cut off is no name."""
    natural = out.measure(rows, options=out.options.update(max_width=PLAIN_WIDTH)).maximum
    with out.capture() as drawn:
        out.print(rows, width=natural, crop=False, soft_wrap=True)
    for line in drawn.get().splitlines():
        out.file.write(f"{line.rstrip(' ')}\n")


def bar(start: float, length: float, whole: float, width: int) -> str:
    """Returns a bar of `length` that begins at `start`, where `whole` takes `width` characters. Something that is not
    nothing shows."""
    if whole <= 0:
        return ""
    left = min(width - 1, int(start / whole * width))
    eighths = max(1, round(length / whole * width * 8)) if length > 0 else 0
    eighths = min(eighths, (width - left) * 8)
    full, rest = divmod(eighths, 8)
    return " " * left + FULL * full + (PARTS[rest] if rest else "")


def color_of(names: Iterable[str], name: str) -> str:
    """Returns the colour of a phase: the same in every start of a screen."""
    order = list(dict.fromkeys(names))
    return COLORS[order.index(name) % len(COLORS)]


def status_text(status: str, text: str | None = None) -> Text:
    style = {"True": "green", "False": "red", "Ready": "green", "Failed": "red"}.get(status, "yellow")
    return Text(text if text is not None else status, style=style)


def seconds(value: float) -> str:
    """Returns a duration as people say it: 0.4s, 12.3s, 3m20s, 2h05m."""
    if value < 100:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def age(since: datetime, now: datetime) -> str:
    """Returns an age as kubectl does: 45s, 12m, 5h, 3d."""
    total = max(0, int((now - since).total_seconds()))
    for unit, size, limit in (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800)):
        if total < limit:
            return f"{total // size}{unit}"
    return f"{total // 86_400}d"


def size(count: float) -> str:
    """Returns bytes in decimal units, as the operator's messages do."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
