"""The worker's Prometheus metrics: the phases of its start, and the requests that it answers."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from neuronmodel_api.report import DiskRates, Note, Sealing, State
from neuronmodel_worker.report.clock import StartClock
from neuronmodel_worker.report.vllm_metrics import VllmMetrics
from neuronmodel_worker.report.volume_room import VolumeRoom

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BETWEEN_TOKENS_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5)
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
        return seconds, moved, tier, _disk(report.disk), *_sealing(report.sealing), _notes(report.notes), ready


def _disk(rates: DiskRates | None) -> GaugeMetricFamily:
    """The rates that this start reached, beside those of the volume's probe."""
    family = GaugeMetricFamily(
        "neuronmodel_disk_bytes_per_second",
        "Rates of the volume that this start used most",
        labels=("direction", "measured"),
    )
    known = rates or DiskRates()
    for direction, measured, rate in (
        ("read", "start", known.read_bytes_per_second),
        ("read", "probe", known.probed_read_bytes_per_second),
        ("write", "start", known.write_bytes_per_second),
        ("write", "probe", known.probed_write_bytes_per_second),
    ):
        if rate is not None:
            family.add_metric((direction, measured), rate)
    return family


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

    def __init__(self, clock: StartClock, volumes: Mapping[str, Path] | None = None) -> None:
        """`volumes`: paths of the volumes whose room is shown, by their names."""
        self.registry = CollectorRegistry()
        self.registry.register(StartCollector(clock))
        self._room = VolumeRoom(volumes or {})
        self.registry.register(self._room)
        self._vllm: VllmMetrics | None = None
        self.requests = Counter(
            "neuronmodel_requests", "Requests to the API", ("endpoint", "status"), registry=self.registry
        )
        self.in_flight = Gauge("neuronmodel_requests_in_flight", "Requests being answered", registry=self.registry)
        self.waiting = Gauge(
            "neuronmodel_requests_waiting", "Requests that wait for their turn", registry=self.registry
        )
        self.running = Gauge("neuronmodel_requests_running", "Requests that are being computed", registry=self.registry)
        self.prompt_tokens = Counter("neuronmodel_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.generated_tokens = Counter("neuronmodel_generated_tokens", "Tokens of answers", registry=self.registry)
        self.first_token_seconds = Histogram(
            "neuronmodel_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=FIRST_TOKEN_SECONDS,
            registry=self.registry,
        )
        self.between_tokens_seconds = Histogram(
            "neuronmodel_time_between_tokens_seconds",
            "From one token of an answer to the next",
            buckets=BETWEEN_TOKENS_SECONDS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "neuronmodel_queue_seconds",
            "Time that a request waited for its turn",
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

    def show_under_vllm_names(self, model_name: str) -> None:
        """From now on the figures of the server are also shown under vLLM's names."""
        self._vllm = VllmMetrics(self.registry, model_name)

    @property
    def _sinks(self) -> "tuple[WorkerMetrics | VllmMetrics, ...]":
        return (self, self._vllm) if self._vllm else (self,)

    def queue(self, *, waiting: int, running: int) -> None:
        """Sets how many requests wait for their turn, and how many are computed."""
        for own in self._sinks:
            own.waiting.set(waiting)
            own.running.set(running)

    def waited(self, seconds: float) -> None:
        for own in self._sinks:
            own.queue_seconds.observe(seconds)

    def answering(self, num_tokens: int) -> "AnswerMetrics":
        """Counts a prompt of `num_tokens`, and returns what counts its answer."""
        return AnswerMetrics(self, self._vllm, num_tokens)

    async def exposition(self) -> bytes:
        """Returns all metrics in Prometheus's text format."""
        await self._room.measure()
        own = generate_latest(self.registry)
        return own + await self.server_metrics() if self.server_metrics else own


class AnswerMetrics:
    """Counts one answer, token by token."""

    def __init__(self, own: WorkerMetrics, vllm: VllmMetrics | None, num_prompt_tokens: int) -> None:
        self._sinks: tuple[WorkerMetrics | VllmMetrics, ...] = (own, vllm) if vllm else (own,)
        self._vllm = vllm
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0
        self._last = 0.0
        for sink in self._sinks:
            sink.prompt_tokens.inc(num_prompt_tokens)

    def token(self, arrived: float) -> None:
        """Counts a token now; `arrived` is when the request came, in monotonic seconds."""
        now = time.monotonic()
        self._num_tokens += 1
        for sink in self._sinks:
            sink.generated_tokens.inc()
            if self._num_tokens == 1:
                sink.first_token_seconds.observe(now - arrived)
            else:
                sink.between_tokens_seconds.observe(now - self._last)
        self._last = now

    def ended(self, arrived: float, reason: str | None) -> None:
        """Counts the answer; `reason` is None for one that its client did not wait for."""
        for sink in self._sinks:
            sink.answer_seconds.observe(time.monotonic() - arrived)
        if self._vllm:
            self._vllm.ended(reason or "abort")
            self._vllm.tokens_of_prompt.observe(self._num_prompt_tokens)
            self._vllm.tokens_of_answer.observe(self._num_tokens)
