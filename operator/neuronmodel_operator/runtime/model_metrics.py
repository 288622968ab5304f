"""What the operator's /metrics tells of each NeuronModel: its conditions, replicas and starts, and how often it had
which Event.

It is bounded: at most MAX_MODELS are shown, labels hold words that this version knows, and what is shown of a
NeuronModel goes with it. How many are left out is a metric itself.
"""

import re
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.phases import StartPhase
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MissCause
from neuronmodel_api.status import NeuronModelStatus, Outcome, Start, StartNote, WorkerState
from neuronmodel_operator.cluster.failed_pass import PassFailure
from neuronmodel_operator.cluster.observe import ModelKey
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import EventNote
from neuronmodel_operator.status.slower import slower
from neuronmodel_operator.status.timeline import load_milliseconds

MAX_MODELS: Final = 1000
"""Each takes 30 to 40 series."""
OTHER: Final = "Other"
"""In place of a word that a user's image made up."""

_NAME: Final = ("namespace", "name")


@dataclass(frozen=True, slots=True)
class ShownState:
    """What a NeuronModel is, as far as it is shown."""

    conditions: tuple[tuple[str, str, str], ...] = ()
    """Type, status and reason."""
    num_wanted: int = 0
    num_ready: int = 0
    last_load_seconds: float | None = None
    start_began_at: datetime | None = None
    """Of the start that is under way."""
    cache: tuple[str, str] | None = None
    """What the latest prepare found, and why it had to build."""


@dataclass(slots=True)
class ShownModel:
    """One NeuronModel that is shown."""

    namespace: str
    name: str
    state: ShownState = field(default_factory=ShownState)
    starts: Tally[tuple[str, str, str]] = field(default_factory=Tally)
    """Ended starts by outcome, cause and cache."""
    slower: Tally[str] = field(default_factory=Tally)
    """Starts that were slower than usual, by the phase that grew most."""
    events: Tally[tuple[str, str]] = field(default_factory=Tally)
    """Events by type and reason."""


class ModelMetrics(Collector):
    """Holds what is shown of each NeuronModel, by UID. Those that come first are shown; those that come later take the
    places of what is gone."""

    def __init__(
        self, now: Callable[[], datetime], is_held: Callable[[str], bool], max_models: int = MAX_MODELS
    ) -> None:
        """`is_held` says whether this operator acts in a namespace: what others do is theirs to show."""
        self._now = now
        self._is_held = is_held
        self._max_models = max_models
        self._shown: dict[str, ShownModel] = {}
        self._left_out: set[str] = set()

    def saw(self, before: NeuronModelStatus, model: ObservedModel, events: Iterable[EventNote]) -> None:
        """Called after a pass: `before` is the status that it began with, `model` what it left, `events` what it
        told."""
        if (shown := self._place_of(model.uid, model.namespace, model.name)) is None:
            return
        shown.state = _state(model)
        for start, peers in _ended(before, model.status):
            shown.starts[start.outcome, start.cause, start.cache or ""] += 1
            if _is_slower(start) and (found := slower(start, peers)):
                shown.slower[_known_phase(found.phase.name)] += 1
        for event in events:
            shown.events[event.type, _known_reason(event.reason)] += 1

    def failed(self, key: ModelKey, failure: PassFailure) -> None:
        """Called when passes fail one after the other: the condition Ready is as the failure says, and nothing else is
        known."""
        if (shown := self._place_of(key.uid, key.namespace, key.name)) is not None:
            others = tuple(condition for condition in shown.state.conditions if condition[0] != ConditionType.READY)
            ready = (ConditionType.READY.value, failure.status, _known_reason(failure.reason))
            shown.state = replace(shown.state, conditions=(ready, *others))

    def gone(self, uid: str) -> None:
        self._shown.pop(uid, None)
        self._left_out.discard(uid)

    def _place_of(self, uid: str, namespace: str, name: str) -> ShownModel | None:
        if (shown := self._shown.get(uid)) is not None:
            return shown
        if len(self._shown) >= self._max_models:
            self._left_out.add(uid)
            return None
        self._left_out.discard(uid)
        shown = self._shown[uid] = ShownModel(namespace, name)
        return shown

    def collect(self) -> Iterator[Metric]:
        models = [shown for shown in self._shown.values() if self._is_held(shown.namespace)]
        yield from self._states(models)
        yield from _counts(models)
        yield GaugeMetricFamily(
            "neuronmodel_operator_unshown_models",
            "NeuronModels that the metrics of models leave out, as there are too many.",
            value=len(self._left_out),
        )

    def _states(self, models: Sequence[ShownModel]) -> Iterator[Metric]:
        condition = _gauge("condition", "1 for each condition as it is.", "condition", "status", "reason")
        wanted = _gauge("replicas_wanted", "Workers that the spec asks for.")
        ready = _gauge("replicas_ready", "Workers that answer.")
        load = _gauge("last_load_seconds", "How long the latest complete start took, without waiting for somebody.")
        running = _gauge("start_running_seconds", "For how long the start that is under way has run; else absent.")
        cache = _gauge("cache", "1 for what the latest prepare found, and why it had to build.", "cache", "because")
        now = self._now()
        for model in models:
            place, state = [model.namespace, model.name], model.state
            for each in state.conditions:
                condition.add_metric([*place, *each], 1)
            wanted.add_metric(place, state.num_wanted)
            ready.add_metric(place, state.num_ready)
            if state.last_load_seconds is not None:
                load.add_metric(place, state.last_load_seconds)
            if state.start_began_at is not None:
                running.add_metric(place, max(0.0, (now - state.start_began_at).total_seconds()))
            if state.cache is not None:
                cache.add_metric([*place, *state.cache], 1)
        yield from (condition, wanted, ready, load, running, cache)


def _counts(models: Iterable[ShownModel]) -> Iterator[Metric]:
    starts = _counter("starts", "Starts that have ended.", "outcome", "cause", "cache")
    slower_starts = _counter("slower_starts", "Starts that were slower than usual, by what grew most.", "phase")
    events = _counter("events", "Events that the operator reported.", "type", "reason")
    for model in models:
        place = [model.namespace, model.name]
        for ended, count in sorted(model.starts.items()):
            starts.add_metric([*place, *ended], count)
        for phase, count in sorted(model.slower.items()):
            slower_starts.add_metric([*place, phase], count)
        for event, count in sorted(model.events.items()):
            events.add_metric([*place, *event], count)
    yield from (starts, slower_starts, events)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"neuronmodel_model_{name}", text, labels=[*_NAME, *labels])


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"neuronmodel_model_{name}", text, labels=[*_NAME, *labels])


def _state(model: ObservedModel) -> ShownState:
    status, spec = model.status, model.spec
    began = next((start.started_at for start in status.starts if start.outcome is Outcome.RUNNING), None)
    artifacts = status.artifacts
    return ShownState(
        conditions=tuple((c.type.value, c.status, _known_reason(c.reason)) for c in status.conditions),
        num_wanted=0 if spec.suspend else spec.serving.replicas,
        num_ready=sum(worker.state is WorkerState.READY for worker in status.workers),
        last_load_seconds=_last_load_seconds(status),
        start_began_at=began,
        cache=(artifacts.cache, _known_cause(artifacts.missed_because)) if artifacts and artifacts.cache else None,
    )


def _last_load_seconds(status: NeuronModelStatus) -> float | None:
    """Of the latest complete start, also where later ones that failed have taken its place in status.starts."""
    loads = (load_milliseconds(start) for start in status.starts if start.outcome is Outcome.READY)
    if (load := next((load for load in loads if load is not None), None)) is not None:
        return load / 1000
    written = re.fullmatch(r"([0-9.]+)s", status.last_load or "")
    return float(written[1]) if written else None


def _ended(before: NeuronModelStatus, after: NeuronModelStatus) -> Iterator[tuple[Start, Sequence[Start]]]:
    """Yields the starts that ended between the two, each with those before it."""
    known = {(start.id, start.outcome) for start in before.starts}
    for place, start in enumerate(after.starts):
        if start.outcome is not Outcome.RUNNING and (start.id, start.outcome) not in known:
            yield start, after.starts[place + 1 :]


def _is_slower(start: Start) -> bool:
    return any(StartNote.read(note).reason == Reason.SLOWER_THAN_USUAL for note in start.notes)


def _known_reason(word: str) -> str:
    return word if Reason.known(word) else OTHER


def _known_cause(word: str | None) -> str:
    return OTHER if word and word not in set(MissCause) else word or ""


def _known_phase(word: str) -> str:
    return word if word in set(StartPhase) else OTHER
