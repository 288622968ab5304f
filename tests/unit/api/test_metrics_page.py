"""docs/reference/metrics.md has every metric that operator and worker register, with its type and labels."""

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import DiskRates, Result, Sealing, SealingState, Stage
from neuronmodel_api.status import NeuronModelStatus
from neuronmodel_operator.cluster.observe import parse_model
from neuronmodel_operator.runtime.metrics import Metrics as OperatorMetrics
from neuronmodel_operator.runtime.model_metrics import ModelMetrics
from neuronmodel_operator.state.observed import ObservedModel
from neuronmodel_operator.state.plan import EventNote
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.report.metrics import WorkerMetrics
from tests.builders import neuron_model
from tests.paths import PROJECT

PAGE = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"^\| `([\w:]+)` \| (\w+) \|([^|]*)\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
ROWS = {name: (kind, re.findall(r"`(\w+)`", labels), unit.strip()) for name, kind, labels, unit, _ in ROW.findall(PAGE)}
UNITS = {"_seconds": "seconds", "_bytes": "bytes"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def of_the_operator() -> CollectorRegistry:
    metrics = OperatorMetrics()
    metrics.show_readiness(lambda: True)
    metrics.follow(lambda: [(("Ready", "True"),)], lambda: 0.0, lambda: 0)
    metrics.show_mirrors(lambda: [("Pod", 1, 1)])
    models = ModelMetrics(lambda: NOW, lambda namespace: True)
    models.saw(NeuronModelStatus(), a_model(), [EventNote("Normal", Reason.READY, "")])
    metrics.registry.register(models)
    return metrics.registry


def a_model() -> ObservedModel:
    """One that has something to say in each: a start that is under way, and one that was slower than usual."""
    status = {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": NOW.isoformat()}],
        "artifacts": {"cache": "Miss", "missedBecause": "NewVolume"},
        "starts": [a_start("a", "Running"), a_start("b", seconds=9), a_start("c"), a_start("d")],
    }
    raw = neuron_model("smol").on_cpu().build()
    raw["metadata"] |= {"namespace": "demo", "uid": "uid-1", "generation": 1, "creationTimestamp": NOW.isoformat()}
    return parse_model(raw | {"status": status})


def a_start(name: str, outcome: str = "Ready", seconds: int = 1) -> dict[str, Any]:
    milliseconds = seconds * 1000
    phase = {"stage": "Serve", "name": "Read", "startedAt": NOW.isoformat(), "milliseconds": milliseconds}
    note = ["SlowerThanUsual: It was slow."] if seconds > 1 else []
    start = {"id": name, "cause": "Created", "outcome": outcome, "startedAt": NOW.isoformat(), "notes": note}
    return start if outcome == "Running" else start | {"totalMilliseconds": milliseconds, "phases": [phase]}


def of_a_worker() -> CollectorRegistry:
    """Of one that has something to say in each."""
    clock = StartClock(Stage.SERVE, FirstLine.now())
    with clock.phase("Read", 1) as phase:
        phase.advance(1)
    clock.served_from("Source")
    clock.sealing(Sealing(state=SealingState.WRITING))
    clock.note("SealingFailed", "No.")
    clock.found(Result(source_fingerprint="", model_type="llama", compiled_key="", cache="Hit"))
    clock.measured(DiskRates(read_bytes_per_second=1))
    metrics = WorkerMetrics(clock, {"Artifacts": Path("/")})
    metrics.show_under_vllm_names("smol")
    asyncio.run(metrics.exposition())
    return metrics.registry


def registered(registry: CollectorRegistry) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Names as they are scraped, with the type and the labels."""
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield name, (family.type, labels_of(collector, family))


def labels_of(collector: Any, family: Any) -> list[str]:
    """One that has counted nothing has no sample, and knows them all the same."""
    if isinstance(collector, MetricWrapperBase):
        return list(collector._labelnames)
    return list(family.samples[0].labels)


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    found = dict(registered(of_the_operator())) | dict(registered(of_a_worker()))
    assert {name: row[:2] for name, row in ROWS.items()} == found


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_unit_is_that_of_the_name(name: str) -> None:
    expected = next((unit for ending, unit in UNITS.items() if name.endswith(ending)), None)
    assert expected in (None, ROWS[name][2])
