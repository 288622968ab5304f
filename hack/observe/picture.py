"""`python -m hack.observe.picture FILE`: the dashboard's panels, drawn from Prometheus' API into a page, and the page
seen by Chromium as a picture.

It stands in for Grafana, which is not needed to see that every query returns what its panel is about.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from hack.observe import dashboard, stack
from hack.observe.dashboard import Panel, Row

SECONDS: Final = 900.0
STEP_SECONDS: Final = 5.0
COLUMN: Final = 58
"""Pixels of one of the dashboard's 24 columns."""
HEIGHT: Final = 190
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 18
MOST_LINES: Final = 12
COLORS: Final = ("#3274d9", "#56a64b", "#e0b400", "#a352cc", "#e02f44", "#1f9e9e", "#ff780a", "#8f7a3a")
STYLE: Final = """
body { margin: 14px; font: 12px system-ui, "DejaVu Sans", sans-serif; width: 1420px; }
body { background: #f4f5f7; color: #24292e; }
h2 { font-size: 14px; margin: 14px 0 6px; }
.row { display: flex; flex-wrap: wrap; gap: 8px; }
.panel { background: #fff; border: 1px solid #dde1e6; border-radius: 3px; padding: 6px; }
.panel { box-sizing: border-box; overflow: hidden; }
.panel h3 { font-size: 12px; margin: 0 0 4px; }
.legend { font-size: 10px; color: #555; height: 26px; overflow: hidden; }
.big { font-size: 34px; color: #56a64b; padding: 40px 0 0 10px; height: 120px; }
.table { height: 190px; overflow: hidden; }
td { font-size: 11px; padding: 1px 8px 1px 0; }
svg text { font-size: 10px; fill: #666; }
"""
_PREFIXES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def main(arguments: Sequence[str]) -> int:
    (file,) = map(Path, arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "page.html")
        made.write_text(page(), encoding="utf-8")
        photograph(made, file)
    print(f"wrote {file}")
    return 0


def photograph(made: Path, file: Path) -> None:
    """Needs Chromium: `apt-get install chromium`."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1450,2500"]
    command = [browser, *options, f"--screenshot={file.resolve()}", made.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def page() -> str:
    rows = "\n".join(_row(row) for row in dashboard.ROWS)
    return f'<!doctype html><html><head><meta charset="utf-8"><style>{STYLE}</style></head><body>{rows}</body></html>'


def filled_in(query: str) -> str:
    """With Grafana's variables at their widest."""
    return query.replace(dashboard.RATE, "1m").replace("$namespace", ".*").replace("$model", ".*")


def _row(row: Row) -> str:
    panels = "\n".join(_panel(panel) for panel in row.panels)
    return f'<h2>{escape(row.title)}</h2><div class="row">{panels}</div>'


def _panel(panel: Panel) -> str:
    width = panel.width * COLUMN
    draw = {"stat": _stat, "table": _table, "barchart": _bars}.get(panel.kind)
    body = draw(panel) if draw else _lines(panel, width)
    return f'<div class="panel" style="width:{width}px"><h3>{escape(panel.title)}</h3>{body}</div>'


def _instant(panel: Panel) -> Iterator[tuple[str, float, Mapping[str, str]]]:
    for query in panel.queries:
        for series in stack.query(filled_in(query.expression)):
            yield _legend(query.legend, series["metric"]), float(series["value"][1]), series["metric"]


def _legend(template: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return " ".join(word for word in template.split() if "{{" not in word)


def _stat(panel: Panel) -> str:
    value = next((value for _, value, _ in _instant(panel)), 0.0)
    return f'<div class="big">{value:g}</div>'


def _table(panel: Panel) -> str:
    rows = "".join(
        f"<tr><td>{escape(legend) or '(none)'}</td><td>{value:g}</td></tr>" for legend, value, _ in _instant(panel)
    )
    return f'<div class="table"><table>{rows}</table></div>'


def _bars(panel: Panel) -> str:
    found = sorted(_instant(panel), key=lambda one: -one[1])[:10]
    most = max((value for _, value, _ in found), default=1.0) or 1.0
    rows = "".join(
        f'<tr><td>{escape(legend)}</td><td><svg width="220" height="10">'
        f'<rect width="{220 * value / most:.1f}" height="10" fill="{COLORS[0]}"/></svg></td>'
        f"<td>{_amount(value, panel.unit)}</td></tr>"
        for legend, value, _ in found
    )
    return f'<div class="table"><table>{rows}</table></div>'


def _lines(panel: Panel, width: int) -> str:
    found = [
        (_legend(query.legend, series["metric"]), [(float(at), float(value)) for at, value in series["values"]])
        for query in panel.queries
        for series in stack.query_range(filled_in(query.expression), SECONDS, STEP_SECONDS)
    ][:MOST_LINES]
    points = [point for _, line in found for point in line]
    if not points:
        return '<div class="table"></div>'
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    most = max((value for _, value in points if value == value), default=1.0) or 1.0
    inner = width - 14 - LEFT - RIGHT

    def x(at: float) -> float:
        return LEFT + inner * (at - first) / ((last - first) or 1.0)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM - 26) * (1 - value / most)

    drawn = [
        f'<text x="2" y="{y(share * most) + 3:.0f}">{_amount(share * most, panel.unit)}</text>' for share in (0, 0.5, 1)
    ]
    for number, (_, line) in enumerate(found):
        color = COLORS[number % len(COLORS)]
        for part in _without_gaps(line):
            path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in part)
            drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
    legend = " ".join(
        f'<span style="color:{COLORS[number % len(COLORS)]}">■</span> {escape(name or "value")}'
        for number, (name, _) in enumerate(found)
    )
    return f'<svg width="{width - 14}" height="{HEIGHT - 26}">{"".join(drawn)}</svg><div class="legend">{legend}</div>'


def _without_gaps(line: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Divides a line where nothing was scraped."""
    parts: list[list[tuple[float, float]]] = []
    for at, value in line:
        if value != value:  # NaN
            continue
        if not parts or at - parts[-1][-1][0] > 2 * STEP_SECONDS:
            parts.append([])
        parts[-1].append((at, value))
    return parts


def _amount(value: Any, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    ending = {"s": " s", "Bps": "B/s", "bytes": "B"}.get(unit, "")
    for factor, prefix in _PREFIXES:
        if value >= factor and unit != "s":
            return f"{value / factor:.3g} {prefix}{ending.strip()}"
    return f"{value:.3g}{ending}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
