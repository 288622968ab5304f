"""The worker's Prometheus metrics: the phases of its start, and the requests that it answers."""

from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from neuronmodel_api.report import Note, Sealing, State
from neuronmodel_worker.report.clock import StartClock

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ANSWER_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class StartCollector(Collector):
    """Reads the clock at each scrape, so that the metrics never disagree with the report."""

    def __init__(self, clock: StartClock) -> None:
        self._clock = clock

    def collect(self) -> Iterable[GaugeMetricFamily]:
        report = self._clock.snapshot()
        seconds = GaugeMetricFamily(
            "neuronmodel_start_phase_seconds", "Wall time of each phase of this start", labels=("stage", "phase")
        )
        moved = GaugeMetricFamily(
            "neuronmodel_start_phase_bytes", "Bytes that each phase of this start moved", labels=("stage", "phase")
        )
        for phase in report.phases:
            seconds.add_metric((report.stage, phase.name), phase.milliseconds / 1000)
            if phase.bytes is not None:
                moved.add_metric((report.stage, phase.name), phase.bytes)
        tier = GaugeMetricFamily(
            "neuronmodel_start_tier", "1 for the volume that this start loaded the weights from", labels=("tier",)
        )
        if report.tier:
            tier.add_metric((report.tier,), 1.0)
        ready = GaugeMetricFamily("neuronmodel_ready", "1 when this worker answers requests")
        ready.add_metric((), float(report.state is State.READY))
        return seconds, moved, tier, *_sealing(report.sealing), _notes(report.notes), ready


def _sealing(sealing: Sealing | None) -> Iterable[GaugeMetricFamily]:
    """Yields the metrics of a worker that seals in the background; other workers have none of them."""
    if sealing is None:
        return
    done = GaugeMetricFamily("neuronmodel_sealing_bytes", "Bytes of the shards that are written, sealed behind")
    done.add_metric((), sealing.done)
    total = GaugeMetricFamily("neuronmodel_sealing_total_bytes", "Bytes of the shards that are to be sealed behind")
    total.add_metric((), sealing.total)
    state = GaugeMetricFamily(
        "neuronmodel_sealing_state", "1 for what the sealing of the shards has come to", labels=("state",)
    )
    state.add_metric((sealing.state,), 1.0)
    yield from (done, total, state)


def _notes(notes: Iterable[Note]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "neuronmodel_start_note", "1 for what the start noticed and went on in spite of", labels=("reason",)
    )
    for note in notes:
        family.add_metric((note.reason,), 1.0)
    return family


class WorkerMetrics:
    """The registry of a worker, and the metrics of its API."""

    def __init__(self, clock: StartClock) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(StartCollector(clock))
        self.requests = Counter(
            "neuronmodel_requests", "Requests to the API", ("endpoint", "status"), registry=self.registry
        )
        self.in_flight = Gauge("neuronmodel_requests_in_flight", "Requests being answered", registry=self.registry)
        self.waiting = Gauge(
            "neuronmodel_requests_waiting", "Requests that wait for their turn", registry=self.registry
        )
        self.prompt_tokens = Counter("neuronmodel_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.generated_tokens = Counter("neuronmodel_generated_tokens", "Tokens of answers", registry=self.registry)
        self.first_token_seconds = Histogram(
            "neuronmodel_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.answer_seconds = Histogram(
            "neuronmodel_answer_seconds",
            "From a request's arrival to the end of its answer",
            buckets=ANSWER_SECONDS,
            registry=self.registry,
        )

        self.server_metrics: Callable[[], Awaitable[bytes]] | None = None
        """Returns the metrics of a server that runs as a child process, in the same format."""

    async def exposition(self) -> bytes:
        """Returns all metrics in Prometheus's text format."""
        own = generate_latest(self.registry)
        return own + await self.server_metrics() if self.server_metrics else own
