"""`kubectl nm status`: one NeuronModel on one screen, what is wrong before everything else."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.text import Text

from neuronmodel_api.phases import WAITS
from neuronmodel_api.reasons import Reason
from neuronmodel_api.status import Outcome, Start, WorkerState, WorkerStatus
from neuronmodel_kubectl.cluster import Cluster, Object
from neuronmodel_kubectl.drawing import (
    age,
    bar,
    color_of,
    console,
    print_whole,
    seconds,
    size,
    status_text,
    table,
)
from neuronmodel_kubectl.failures import PluginError
from neuronmodel_kubectl.models import ReadModel, load_seconds, now, read_model, wrong_conditions
from neuronmodel_kubectl.reports import report_of

BAR_WIDTH = 48
BESIDE_A_BAR = 82
"""What stands beside it at its longest: how long, how it ended, when it began, and what it was."""
NUM_EVENTS = 6


@dataclass(frozen=True)
class WorkUnderWay:
    """The phase that a worker is in, how fast it goes and when it will be done; None where that is not known."""

    pod: str
    phase: str
    since: datetime
    done: int | None = None
    total: int | None = None
    rate: float | None = None
    """Bytes a second."""
    left_seconds: float | None = None


def show_status(cluster: Cluster, options: argparse.Namespace) -> None:
    model = read_model(cluster, options.name)
    cluster = cluster.in_namespace(model.namespace)
    moment = now()
    work = [found for worker in model.status.workers if (found := _work(cluster, model, worker, moment))]
    events = recent_events(cluster, model)
    if options.output == "json":
        print(json.dumps(_document(model, work, events), indent=2, default=str))
        return
    out = console()
    _show_identity(out, model, moment)
    _show_wrong(out, model)
    _show_conditions(out, model, moment)
    _show_workers(out, model, work, moment)
    _show_starts(out, model, moment)
    _show_events(out, events, moment)


def _document(model: ReadModel, work: Sequence[WorkUnderWay], events: Sequence[Object]) -> dict[str, object]:
    ready = model.ready
    return {
        "namespace": model.namespace,
        "name": model.name,
        "ready": ready.status if ready else None,
        "reason": ready.reason if ready else None,
        "message": ready.message if ready else None,
        "isCurrent": not model.is_unhandled,
        "wrong": [condition.to_json() for condition in wrong_conditions(model)],
        "work": [vars(each) for each in work],
        "status": model.raw.get("status") or {},
        "events": list(events),
    }


def _show_identity(out: Console, model: ReadModel, moment: datetime) -> None:
    spec, status = model.spec, model.status
    ready = model.ready
    word = (
        (ready.reason if ready else "no operator has seen it") if ready is None or ready.status != "True" else "Ready"
    )
    title = Text.assemble((f"{model.namespace}/{model.name}", "bold"), "  ")
    title.append_text(status_text(ready.status if ready else "Unknown", word))
    title.append(f"  {age(model.created_at, moment)} old")
    out.print(title)
    facts = [
        f"engine {spec.engine}, tensor parallel degree {spec.parallelism.tensor_parallel_degree}",
        status.strategy.in_force if status.strategy else "",
        f"from {source_of(model)}",
    ]
    out.print(Text(", ".join(filter(None, facts))))
    if status.endpoint:
        out.print(Text(f"endpoint {status.endpoint}"))
    if artifacts := status.artifacts:
        found = f"artifacts on {artifacts.claim_name}"
        if artifacts.bytes:
            found += f": {size(artifacts.bytes)}"
        if artifacts.cache:
            found += f", {artifacts.cache}" + (f" ({artifacts.missed_because})" if artifacts.missed_because else "")
        out.print(Text(found))


def source_of(model: ReadModel) -> str:
    source = model.spec.model.source
    if source.on_network:
        return source.on_network.address
    if source.persistent_volume_claim:
        place = source.persistent_volume_claim
        return f"the claim {place.claim_name}" + (f", {place.path}" if place.path else "")
    return source.host_path.path if source.host_path else "nowhere"


def _show_wrong(out: Console, model: ReadModel) -> None:
    """What is in the way, with its remedy."""
    if model.is_unhandled:
        out.print()
        out.print(
            Text(
                "No operator has looked at this spec yet. If this stays: does one run, and does it watch this "
                "namespace? `kubectl get pods -A -l app.kubernetes.io/name=neuronmodel-operator`",
                style="yellow",
            )
        )
    for condition in wrong_conditions(model):
        out.print()
        out.print(Text(f"{condition.reason}: {condition.message}", style="red"))
        reason = Reason.known(condition.reason)
        if reason and reason.advice:
            out.print(Text(f"What to do: {reason.advice}"))
    if wrong_conditions(model):
        out.print(
            Text(f"It goes on by itself once that is mended; `kubectl nm retry {model.name}` has it tried at once.")
        )


def _show_conditions(out: Console, model: ReadModel, moment: datetime) -> None:
    if not model.status.conditions:
        return
    out.print()
    rows = table("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
    rows.columns[-1].no_wrap = False
    shown_above = {condition.reason for condition in wrong_conditions(model)}
    for condition in model.status.conditions:
        is_good = condition.status == ("False" if condition.type == "UpdateAvailable" else "True")
        style = "True" if is_good else condition.status
        rows.add_row(
            condition.type,
            status_text(style, condition.status),
            condition.reason,
            age(condition.last_transition_time, moment),
            Text("(above)" if condition.reason in shown_above else condition.message, overflow="fold"),
        )
    if out.is_terminal:
        out.print(rows)
    else:
        print_whole(out, rows)


def _show_workers(out: Console, model: ReadModel, work: Sequence[WorkUnderWay], moment: datetime) -> None:
    wanted = 0 if model.spec.suspend else model.spec.serving.replicas
    answering = sum(worker.state == "Ready" for worker in model.status.workers)
    out.print()
    out.print(Text(f"{answering} of {wanted} workers answer"))
    by_pod = {each.pod: each for each in work}
    for worker in model.status.workers:
        line = Text(f"  {worker.pod_name}  ")
        line.append_text(status_text(worker.state))
        line.append(f"  {worker.stage}" + (f" on {worker.node}" if worker.node else ""))
        out.print(line)
        each = by_pod.get(worker.pod_name)
        if each and worker.state is WorkerState.FAILED:
            out.print(Text(f"    last seen in {each.phase}"))
        elif each:
            out.print(Text(f"    {progress_line(each, moment)}", style="cyan"))


def progress_line(work: WorkUnderWay, moment: datetime) -> str:
    """Returns the phase, how far it is, its rate and how long it will take."""
    parts = [f"{work.phase}, for {seconds(max(0.0, (moment - work.since).total_seconds()))}"]
    if work.done is not None and work.total:
        share = bar(0, work.done, work.total, 20).ljust(20)
        parts.append(f"{share} {100 * work.done // work.total} % of {size(work.total)}")
    elif work.done:
        parts.append(size(work.done))
    if work.rate:
        parts.append(f"{size(work.rate)}/s")
    if work.left_seconds is not None:
        parts.append(f"{seconds(work.left_seconds)} left")
    return ", ".join(parts)


def _work(cluster: Cluster, model: ReadModel, worker: WorkerStatus, moment: datetime) -> WorkUnderWay | None:
    """What a worker does, from its own report where it may be asked, else from status, which is some seconds old."""
    written = worker.progress
    report = report_of(cluster, model.namespace, worker.pod_name) if worker.state in ("Starting", "Pending") else None
    if report and report.progress:
        progress = report.progress
        is_bytes = progress.unit == "Bytes"
        return under_way(
            worker.pod_name,
            progress.phase,
            progress.started_at,
            progress.done if is_bytes else None,
            progress.total if is_bytes else None,
            moment,
        )
    if written is None:
        return None
    at = written.updated_at or moment
    return under_way(worker.pod_name, written.phase, written.started_at, written.bytes, written.total_bytes, at)


def under_way(pod: str, phase: str, since: datetime, done: int | None, total: int | None, at: datetime) -> WorkUnderWay:
    """`done` and `total` in bytes, as they were at a time."""
    took = (at - since).total_seconds()
    rate = done / took if done and took > 0 else None
    left = (total - done) / rate if rate and total and done is not None and total >= done else None
    return WorkUnderWay(pod, phase, since, done, total, rate, left)


def outcome_of(model: ReadModel, start: Start) -> str:
    """Returns how a start ended; of one that has not, whether it runs or waits for somebody."""
    waits = start.outcome is Outcome.RUNNING and model.ready is not None and model.ready.status == "False"
    return "Waiting" if waits else str(start.outcome)


def _show_starts(out: Console, model: ReadModel, moment: datetime) -> None:
    starts = model.status.starts
    if not starts:
        return
    out.print()
    out.print(Text("last starts, newest first", style="bold"))
    longest = max(load_seconds(start, moment) for start in starts)
    phases = [phase.name for start in starts for phase in start.phases]
    width = min(BAR_WIDTH, max(10, out.width - BESIDE_A_BAR))
    for start in starts:
        line = Text("  ")
        line.append_text(start_bar(start, longest, width, phases, moment))
        took = seconds(load_seconds(start, moment))
        line.append(f" {took:>7}  ")
        line.append_text(status_text(start.outcome, outcome_of(model, start).ljust(7)))
        line.append(f"  began {age(start.started_at, moment)} ago  {described(start)}")
        out.print(line, soft_wrap=True)
        for note in start.notes:
            out.print(Text(f"      {note}", style="yellow"))


def described(start: Start) -> str:
    """Returns the cause, the cache and the tier of a start, or why it failed."""
    words = [start.cause, f"cache {start.cache}" if start.cache else "", f"from {start.tier}" if start.tier else ""]
    if start.outcome is Outcome.FAILED and start.reason:
        words.append(start.reason)
    return ", ".join(filter(None, words))


def start_bar(start: Start, longest: float, width: int, phases: Sequence[str], moment: datetime) -> Text:
    """Returns one start as a bar of its phases, without the time that it waited for somebody."""
    line, cursor, drawn = Text(), 0.0, 0
    for name, took in _known_phases(start, moment):
        cursor += took
        until = round(cursor / longest * width) if longest > 0 else 0
        line.append("█" * (until - drawn), style=color_of(phases, name) if name else "bright_black")
        drawn = max(drawn, until)
    line.append(" " * (width - drawn))
    return line


def _known_phases(start: Start, moment: datetime) -> Iterator[tuple[str, float]]:
    known = 0.0
    for phase in start.phases:
        if phase.name not in WAITS:
            known += phase.milliseconds / 1000
            yield phase.name, phase.milliseconds / 1000
    if start.outcome is Outcome.RUNNING:
        yield "", max(0.0, load_seconds(start, moment) - known)


def recent_events(cluster: Cluster, model: ReadModel) -> list[Object]:
    """The Events about the NeuronModel itself, newest first; none where the user may not read them."""
    selector = f"involvedObject.kind=NeuronModel,involvedObject.name={model.name}"
    try:
        found = cluster.items("events", f"--field-selector={selector}")
    except PluginError:
        return []
    return sorted(found, key=event_time, reverse=True)


def event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"])


def _show_events(out: Console, events: Sequence[Object], moment: datetime) -> None:
    if not events:
        return
    out.print()
    out.print(Text("events", style="bold"))
    for event in events[:NUM_EVENTS]:
        at = datetime.fromisoformat(event_time(event))
        style = "yellow" if event.get("type") == "Warning" else ""
        count = f" (x{event['count']})" if (event.get("count") or 1) > 1 else ""
        out.print(Text(f"  {age(at, moment):>4}  {event['reason']}{count}: {event.get('message', '')}", style=style))
