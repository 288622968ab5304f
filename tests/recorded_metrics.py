"""The metrics of an operator and of workers that have something to say in each, as a Prometheus scrapes them."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import DiskRates, Sealing, SealingState, Stage
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster.observe import parse_model
from neuronmodel_operator.runtime.metrics import Metrics as OperatorMetrics
from neuronmodel_operator.runtime.model_metrics import ModelMetrics
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import EventNote
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.report.metrics import WorkerMetrics
from tests.builders import neuron_model

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def of_the_operator() -> CollectorRegistry:
    metrics = OperatorMetrics()
    metrics.show_readiness(lambda: True)
    metrics.follow(lambda: [(("Ready", "True"),)], lambda: 0.0, lambda: 0)
    metrics.show_mirrors(lambda: [("Pod", 1, 1)])
    metrics.show_watches(lambda: {"Pod": 1.0})
    metrics.reconciles.labels("Done").inc()
    metrics.seconds.observe(0.02)
    metrics.errors.labels("Conflict").inc()
    metrics.count_report_error("NoAnswer")
    metrics.count_call("get", "Pod", 200)
    models = ModelMetrics(lambda: NOW, lambda namespace: True)
    models.saw(NeuronModelStatus(), a_model(), [EventNote("Normal", Reason.READY, "")])
    metrics.registry.register(models)
    return metrics.registry


def a_model() -> ObservedModel:
    """One with a start that is under way, and one that was slower than usual."""
    status = {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": NOW.isoformat()}],
        "artifacts": {"cache": "Miss", "missedBecause": "NewVolume"},
        "starts": [_a_start("a", "Running"), _a_start("b", seconds=9), _a_start("c"), _a_start("d")],
    }
    raw = neuron_model("smol").on_cpu().build()
    raw["metadata"] |= {
        "namespace": "demo",
        "uid": "uid-1",
        "generation": 1,
        "creationTimestamp": NOW.isoformat(),
    }
    return parse_model(raw | {"status": status})


def _a_start(name: str, outcome: str = "Ready", seconds: int = 1) -> dict[str, Any]:
    milliseconds = seconds * 1000
    phase = {"stage": "Serve", "name": "Read", "startedAt": NOW.isoformat(), "milliseconds": milliseconds}
    note = ["SlowerThanUsual: It was slow."] if seconds > 1 else []
    start = {"id": name, "cause": "Created", "outcome": outcome, "startedAt": NOW.isoformat(), "notes": note}
    return start if outcome == "Running" else start | {"totalMilliseconds": milliseconds, "phases": [phase]}


def of_a_worker() -> CollectorRegistry:
    seconds = itertools.count(1)
    clock = StartClock(Stage.SERVE, FirstLine(0, 0), monotonic=lambda: next(seconds) * 10**9)
    with clock.phase("Read", 1) as phase:
        phase.advance(1)
    clock.served_from("Source")
    clock.sealing(Sealing(state=SealingState.WRITING))
    clock.note("SealingFailed", "No.")
    clock.measured(DiskRates(read_bytes_per_second=1))
    metrics = WorkerMetrics(clock, {"Artifacts": Path("/")})
    metrics.show_under_vllm_names("smol")
    metrics.requests.labels("/v1/completions", "200").inc()
    answer = metrics.answering(3)
    answer.token(0.0)
    answer.token(0.0)
    answer.ended(0.0, "stop")
    asyncio.run(metrics.exposition())
    return metrics.registry


@dataclass(frozen=True)
class Scraped:
    """What one target's page becomes in Prometheus. A label of the page is kept where the target has the same."""

    registry: CollectorRegistry
    target: Mapping[str, str] = field(default_factory=dict)

    def series(self) -> Iterator[tuple[str, Sample, bool]]:
        """Yields each series as Prometheus writes it, its sample, and whether it counts."""
        for family in self.registry.collect():
            for sample in family.samples:
                labels = {**self.target, **sample.labels}
                text = ",".join(f'{name}="{value}"' for name, value in labels.items())
                yield f"{sample.name}{{{text}}}", sample, family.type in ("counter", "histogram")


def everything() -> tuple[Scraped, ...]:
    """The pages of an operator and of a worker, with the labels that the chart's monitors give them."""
    operator = {"job": "neuronmodel-metrics", "namespace": "neuronmodel-system", "pod": "neuronmodel-1"}
    worker = {"job": "demo/workers", "namespace": "demo", "pod": "smol-1", "model": "smol", "component": "serve"}
    return Scraped(of_the_operator(), operator), Scraped(of_a_worker(), worker)
