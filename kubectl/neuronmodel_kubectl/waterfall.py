"""`kubectl nm starts`: where the seconds of a start went, phase by phase, each beginning where the one before ended."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from neuronmodel_api.phases import WAITS, StartPhase
from neuronmodel_api.reasons import plain
from neuronmodel_api.status import Outcome, RecordedPhase, Start
from neuronmodel_kubectl.cluster import Cluster
from neuronmodel_kubectl.drawing import age, bar, color_of, console, print_whole, seconds, size, table
from neuronmodel_kubectl.failures import PluginError, UsageError
from neuronmodel_kubectl.html_page import page
from neuronmodel_kubectl.models import ReadModel, load_seconds, now, read_model
from neuronmodel_kubectl.status_screen import described, outcome_of

BAR_WIDTH = 56


@dataclass(frozen=True)
class Step:
    """A phase as it is drawn: where it begins and how long it takes, in seconds, waits left out of both."""

    phase: RecordedPhase
    start: float
    seconds: float
    is_wait: bool
    """Whether it waited for somebody, which does not count as loading."""


def steps(start: Start) -> list[Step]:
    found, cursor = [], 0.0
    for phase in start.phases:
        is_wait, took = phase.name in WAITS, phase.milliseconds / 1000
        found.append(Step(phase, cursor, took, is_wait))
        cursor += 0.0 if is_wait else took
    return found


def show_starts(cluster: Cluster, options: argparse.Namespace) -> None:
    model = read_model(cluster, options.name)
    starts = chosen(model, all_of_them=options.all, number=options.number)
    moment = now()
    if options.html:
        write_page(options.html, model, starts, moment)
    elif options.output == "json":
        print(json.dumps([start.to_json() for start in starts], indent=2))
    else:
        out = console()
        for place, start in enumerate(starts):
            if place:
                out.print()
            _show(out, model, start, moment)


def chosen(model: ReadModel, *, all_of_them: bool, number: int) -> Sequence[Start]:
    """Returns one start, 1 being the newest, or all. Raises PluginError where it is not there."""
    starts = model.status.starts
    if not starts:
        raise PluginError(f"{model.namespace}/{model.name} has not been started yet: `kubectl nm status {model.name}`.")
    if all_of_them:
        return starts
    if not 1 <= number <= len(starts):
        raise UsageError(f"There is no start {number}: {model.name} has {len(starts)}, and 1 is the newest.")
    return starts[number - 1 : number]


def write_page(file: Path, model: ReadModel, starts: Sequence[Start], moment: datetime) -> None:
    try:
        file.write_text(page(model, starts, moment), encoding="utf-8")
    except OSError as error:
        raise PluginError(f"{file} can't be written: {error.strerror or error}.") from error
    print(f"wrote {file}")


def _show(out: Console, model: ReadModel, start: Start, moment: datetime) -> None:
    for line in heading(model, start, moment):
        out.print(Text(line))
    known = steps(start)
    whole = sum(step.seconds for step in known if not step.is_wait)
    names = [step.phase.name for step in known]
    width = min(BAR_WIDTH, max(24, out.width - 56))
    rows = table("STAGE", "PHASE", "TOOK", "RATE", "")
    for step in known:
        phase = step.phase
        drawn = Text(bar(step.start, step.seconds, whole, width), style=color_of(names, phase.name))
        if step.is_wait:
            drawn = Text(" " * int(step.start / whole * width if whole else 0) + "· not counted", style="bright_black")
        name = (
            phase.name
            + (f" ({phase.reason})" if phase.reason else "")
            + (f" #{phase.attempt}" if phase.attempt > 1 else "")
        )
        rows.add_row(phase.stage, name, seconds(step.seconds), rate(phase), drawn)
    print_whole(out, rows)
    for line in remarks(start):
        out.print(Text(line, style="yellow"))


def heading(model: ReadModel, start: Start, moment: datetime) -> Iterator[str]:
    took = seconds(load_seconds(start, moment))
    words = {
        Outcome.READY: f"loaded in {took}",
        Outcome.FAILED: f"failed after {took}",
        Outcome.RUNNING: f"{'running' if outcome_of(model, start) == Outcome.RUNNING else 'waiting'} for {took}",
    }
    told = f"{words[start.outcome]}, {described(start)}, {age(start.started_at, moment)} ago"
    yield f"{model.namespace}/{model.name}: {told}"
    place = [f"pod {start.pod_name}" if start.pod_name else "", f"node {start.node_name}" if start.node_name else ""]
    facts = [*place, str(start.strategy or "")]
    if disk := disk_line(start):
        facts.append(disk)
    if any(facts):
        yield ", ".join(filter(None, facts))


def disk_line(start: Start) -> str:
    disk = start.disk
    if disk is None:
        return ""
    parts = []
    for verb, reached, probed in (
        ("read", disk.read_bytes_per_second, disk.probed_read_bytes_per_second),
        ("wrote", disk.write_bytes_per_second, disk.probed_write_bytes_per_second),
    ):
        if reached:
            parts.append(f"{verb} {size(reached)}/s" + (f" (its probe: {size(probed)}/s)" if probed else ""))
    return f"the disk {' and '.join(parts)}" if parts else ""


def rate(phase: RecordedPhase) -> str:
    if not phase.bytes:
        return ""
    return f"{size(phase.bytes)}" + (f", {size(phase.bytes_per_second)}/s" if phase.bytes_per_second else "")


def remarks(start: Start) -> Iterator[str]:
    """Notes, and what to do about the phase that took longest."""
    yield from start.notes
    if start.outcome is Outcome.FAILED:
        return
    counted = [phase for phase in start.phases if phase.name not in WAITS]
    if not counted:
        return
    longest = max(counted, key=lambda phase: phase.milliseconds)
    known = next((phase for phase in StartPhase if phase == longest.name), None)
    if known and longest.milliseconds >= 1000:
        yield f"The longest, {known}: {plain(known.meaning)} {plain(known.remedy)}"
