"""docs/reference/metrics.md has every metric that operator and worker register, with its type and labels."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from neuronmodel_api.report import Sealing, SealingState, Stage
from neuronmodel_operator.runtime.metrics import Metrics as OperatorMetrics
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.report.metrics import WorkerMetrics
from tests.paths import PROJECT

PAGE = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
ROWS = {name: (kind, re.findall(r"`(\w+)`", labels), unit.strip()) for name, kind, labels, unit, _ in ROW.findall(PAGE)}
UNITS = {"_seconds": "seconds", "_bytes": "bytes"}


def of_the_operator() -> CollectorRegistry:
    metrics = OperatorMetrics()
    metrics.show_readiness(lambda: True)
    metrics.follow(lambda: [(("Ready", "True"),)], lambda: 0.0, lambda: 0)
    metrics.show_mirrors(lambda: [("Pod", 1, 1)])
    return metrics.registry


def of_a_worker() -> CollectorRegistry:
    """Of one that has something to say in each."""
    clock = StartClock(Stage.SERVE, FirstLine.now())
    with clock.phase("Read", 1) as phase:
        phase.advance(1)
    clock.served_from("Source")
    clock.sealing(Sealing(state=SealingState.WRITING))
    clock.note("SealingFailed", "No.")
    return WorkerMetrics(clock).registry


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
