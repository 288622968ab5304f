"""The picture: seconds of every run, and the ratios with their intervals and limits."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from hack.bench.results import Held, comparisons_of
from hack.bench.rounds import CaseRuns

OURS, THEIRS, LIMIT = "#1f6f8b", "#8d99ae", "#c8553d"
ROW_INCHES = 0.3
PANEL_INCHES = 0.9
OWN = ("files", "memory", "artifacts verify", "verify", "start", "load, sealing")


def draw(results: Sequence[CaseRuns], path: Path) -> None:
    """One row of two panels for each case: every run's seconds on the left, ratios on the right."""
    results = [result for result in results if list(comparisons_of(result))]
    if not results:
        return
    heights = [PANEL_INCHES + ROW_INCHES * len(_contenders(result)) for result in results]
    with pyplot.rc_context(
        {"svg.hashsalt": "neuronmodel", "svg.fonttype": "none", "font.size": 9, "axes.titlesize": 9}
    ):
        figure, panels = pyplot.subplots(
            len(results), 2, figsize=(12, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
        )
        for result, (left, right) in zip(results, panels, strict=True):
            _draw_seconds(left, result)
            _draw_ratios(right, [held for held in comparisons_of(result) if not held.speedup])
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _contenders(result: CaseRuns) -> list[str]:
    return [contender.name for contender in result.case.contenders if result.of(contender.name)]


def _draw_seconds(axes: Axes, result: CaseRuns) -> None:
    """A dot a run, a line at the median."""
    names = _contenders(result)
    for place, name in enumerate(names):
        seconds = sorted(result.seconds(name).values())
        colour = OURS if name.startswith(OWN) else THEIRS
        axes.plot(seconds, [place] * len(seconds), "o", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
        middle = (seconds[(len(seconds) - 1) // 2] + seconds[len(seconds) // 2]) / 2
        axes.plot([middle] * 2, [place - 0.3, place + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds, every run and the median")
    axes.set_title(f"{result.case.title}, {result.source_bytes / 1e9:.1f} GB", loc="left")
    _plain(axes)


def _draw_ratios(axes: Axes, held: Sequence[Held]) -> None:
    """The median with its interval, a bar at the limit."""
    for place, each in enumerate(held):
        ratio = each.ratio
        axes.plot([ratio.low, ratio.high], [place] * 2, color=OURS, linewidth=2)
        axes.plot(ratio.median, place, "o", color=OURS, markersize=6)
        if each.limit:
            axes.plot([each.limit.value] * 2, [place - 0.3, place + 0.3], color=LIMIT, linewidth=2)
    axes.axvline(1, color=THEIRS, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(held)), [each.title.replace(", against ", "\nagainst ") for each in held])
    axes.set_ylim(len(held) - 0.5, -0.5)
    axes.set_xlabel("ratio of seconds, 95 % interval; the limit in red")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
