"""The section of docs/performance.md: what must hold, what was measured, and the picture of growth."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from hack.bench.machine import describe
from neuronmodel_operator.manifests.quantities import parse_quantity

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
PAGE: Final = DOCS / "performance.md"
VALUES: Final = DOCS.parent / "charts" / "neuronmodel" / "values.yaml"
FIGURES: Final = DOCS / "scale.json"
PICTURE: Final = DOCS / "scale.svg"
BEGIN: Final = "<!-- what `make scale` measured; written by it -->"
END: Final = "<!-- the end of what `make scale` measured -->"

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    what: str
    limit: str
    value: Callable[[Figures], float]
    is_met: Callable[[float], bool]
    shown: str = "{:.1f}"


def _of(*path: str) -> Callable[[Figures], float]:
    def value(figures: Figures) -> float:
        found: Any = figures
        for key in path:
            found = found[key]
        return float(found)

    return value


LARGEST: Final = "10000 at rest"
LIMIT: Final = yaml.safe_load(VALUES.read_text())["resources"]["limits"]["memory"]
MEASURES: Final = (
    Measure(
        "1,000 applied at once: first status, p99", "60 s",
        _of("1000 at once: first status", "p99"), lambda seconds: seconds <= 60, "{:.1f} s",
    ),
    Measure(
        "1,000 applied at once: Job made, p99", "120 s",
        _of("1000 at once: Job made", "p99"), lambda seconds: seconds <= 120, "{:.1f} s",
    ),
    Measure(
        "one applied into 1,000 that rest, to its Job, p99", "1 s",
        _of("one into 1000", "p99"), lambda seconds: seconds <= 1, "{:.2f} s",
    ),
    Measure(
        "1,000 applied and then changed at once: memory, at most", f"the chart's limit, {LIMIT}",
        _of("1000 at once: peak megabytes"),
        lambda found: found * 1e6 <= (parse_quantity(LIMIT) or 0), "{:.0f} MB",
    ),
    Measure("10,000 at rest: memory", "400 MB", _of(LARGEST, "megabytes"), lambda found: found <= 400, "{:.0f} MB"),
    Measure(
        "10,000 at rest: requests a minute", "600",
        _of(LARGEST, "requests a minute"), lambda found: found <= 600, "{:.0f}",
    ),
    Measure(
        "10,000 at rest: processor", "20 % of a core",
        _of(LARGEST, "processor"), lambda found: found <= 0.2, "{:.1%} of a core",
    ),
    Measure(
        "restarted with 10,000: all looked at", "300 s",
        _of(LARGEST, "restart seconds"), lambda seconds: seconds <= 300, "{:.0f} s",
    ),
    Measure(
        "restarted with 10,000: requests a NeuronModel", "3",
        _of(LARGEST, "restart requests"), lambda found: found <= 3, "{:.2f}",
    ),
    Measure(
        "writes to the API server a start, ShardOnCompile", "15",
        _of("writes a start, ShardOnCompile"), lambda found: found <= 15,
    ),
    Measure(
        "writes to the API server a start, ShardOnLoad", "15",
        _of("writes a start, ShardOnLoad"), lambda found: found <= 15,
    ),
    Measure(
        "1,000 specs changed at once: the slowest over the median", "3",
        lambda figures: figures["1000 changed at once"]["most"] / figures["1000 changed at once"]["median"],
        lambda ratio: ratio <= 3, "{:.2f}",
    ),
)  # fmt: skip


def table(figures: Figures) -> list[str]:
    lines = ["| measure | must | measured | |", "| --- | --- | ---: | --- |"]
    for measure in MEASURES:
        value = measure.value(figures)
        verdict = "met" if measure.is_met(value) else "**missed**"
        lines.append(f"| {measure.what} | {measure.limit} | {measure.shown.format(value)} | {verdict} |")
    return lines


def growth(figures: Figures) -> list[str]:
    lines = [
        "| NeuronModels at rest | memory | at most since the restart | requests a minute | processor | restart |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for size, found in _sizes(figures):
        memory = f"{found['megabytes']:.0f} MB | {found['peak megabytes']:.0f} MB"
        load = f"{found['requests a minute']:.0f} | {found['processor']:.1%} of a core"
        lines.append(f"| {size:,} | {memory} | {load} | {found['restart seconds']:.0f} s |")
    return lines


def write(figures: Figures) -> None:
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    machine = describe(DOCS)
    lines = [f"{machine['date']}, {machine['processor']}.", "", *table(figures), "", *growth(figures)]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"]))
    draw(figures, PICTURE)


def draw(figures: Figures, path: Path) -> None:
    """Memory, requests, processor and the restart over the number of NeuronModels; a straight line is linear."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    panels = (
        ("megabytes", "memory at rest, MB", 1.0),
        ("requests a minute", "requests a minute at rest", 1.0),
        ("processor", "% of a core at rest", 100.0),
        ("restart seconds", "seconds until all were looked at", 1.0),
    )
    sizes = [size for size, _ in _sizes(figures)]
    with pyplot.rc_context({"svg.hashsalt": "neuronmodel", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(1, len(panels), figsize=(12, 2.6), layout="constrained")
        for panel, (key, title, factor) in zip(axes, panels, strict=True):
            panel.plot(sizes, [found[key] * factor for _, found in _sizes(figures)], "o-", color="#1f6f8b")
            panel.set_title(title, loc="left", fontsize=9)
            panel.set_xlabel("NeuronModels")
            panel.set_xlim(left=0)
            panel.set_ylim(bottom=0)
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _sizes(figures: Figures) -> list[tuple[int, Any]]:
    found = {int(name.split()[0]): value for name, value in figures.items() if name.endswith(" at rest")}
    return sorted(found.items())
