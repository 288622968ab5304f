"""A page with the picture of starts, which needs nothing else: it can be attached to an issue."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape

from neuronmodel_api.phases import WAITS
from neuronmodel_api.status import Start
from neuronmodel_kubectl.drawing import seconds, size
from neuronmodel_kubectl.models import ReadModel, load_seconds

WIDTH, LABELS, ROW, TOP = 960, 250, 22, 28
COLORS = ("#3b82c4", "#4f9d69", "#c9a227", "#a05fb4", "#6676c9", "#c2543d", "#3aa6a6", "#8aa83a")
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1000px; color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; } p { margin: .2rem 0; }
svg { width: 100%; height: auto; } .note { color: #8a5a00; } text { font: 12px system-ui, sans-serif; fill: #222; }
"""


def page(model: ReadModel, starts: Sequence[Start], moment: datetime) -> str:
    """Returns the page, with everything escaped that came from the cluster."""
    name = escape(f"{model.namespace}/{model.name}")
    body = "\n".join(_start(start, moment) for start in starts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Starts of {name}</title>'
        f"<style>{STYLE}</style></head>\n<body><h1>Starts of {name}</h1>\n"
        f"<p>As of {moment:%Y-%m-%d %H:%M:%S} UTC. Each phase begins where the one before it ends.</p>\n"
        f"{body}\n</body></html>\n"
    )


def _start(start: Start, moment: datetime) -> str:
    words = [start.outcome, start.cause, f"cache {start.cache}" if start.cache else "", start.strategy or ""]
    words += [f"from {start.tier}" if start.tier else "", f"on {start.node_name}" if start.node_name else ""]
    title = f"{start.started_at:%Y-%m-%d %H:%M:%S}: {seconds(load_seconds(start, moment))}"
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in start.notes)
    facts = escape(", ".join(filter(None, [*words, start.reason or ""])))
    return f"<h2>{escape(title)}</h2><p>{facts}</p>{notes}\n{picture(start)}"


def picture(start: Start) -> str:
    """Returns the waterfall as SVG."""
    height = TOP + ROW * len(start.phases) + 6
    rows = "".join(_rows(start))
    shape = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The phases of a start"'
    return f"<svg {shape}>{_scale(start, height)}{rows}</svg>"


def _whole(start: Start) -> float:
    return sum(phase.milliseconds for phase in start.phases if phase.name not in WAITS) / 1000


def _scale(start: Start, height: int) -> str:
    whole, marks = _whole(start), []
    for quarter in range(5):
        x = LABELS + (WIDTH - LABELS - 70) * quarter / 4
        marks.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height}" stroke="#ddd"/>')
        marks.append(f'<text x="{x:.1f}" y="14" text-anchor="middle">{seconds(whole * quarter / 4)}</text>')
    return "".join(marks)


def _rows(start: Start) -> Iterator[str]:
    whole, cursor = max(_whole(start), 1e-9), 0.0
    names = list(dict.fromkeys(phase.name for phase in start.phases))
    for number, phase in enumerate(start.phases):
        y, took = TOP + number * ROW, phase.milliseconds / 1000
        label = f"{phase.stage} {phase.name}" + (f" ({phase.reason})" if phase.reason else "")
        yield f'<text x="{LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>'
        x = LABELS + (WIDTH - LABELS - 70) * cursor / whole
        if phase.name in WAITS:
            yield f'<text x="{x + 4:.1f}" y="{y + 14}">{seconds(took)}, not counted</text>'
            continue
        length = max(1.0, (WIDTH - LABELS - 70) * took / whole)
        color = COLORS[names.index(phase.name) % len(COLORS)]
        told = f"{label}: {seconds(took)}" + (f", {size(phase.bytes)}" if phase.bytes else "")
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{ROW - 5}" fill="{color}">'
            f"<title>{escape(told)}</title></rect>"
        )
        yield f'<text x="{min(x + length + 4, WIDTH - 64):.1f}" y="{y + 14}">{seconds(took)}</text>'
        cursor += took
