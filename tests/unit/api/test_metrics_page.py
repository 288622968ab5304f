"""docs/reference/metrics.md has every metric that operator and worker register, with its type and labels."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from tests.paths import PROJECT
from tests.recorded_metrics import of_a_worker, of_the_operator

PAGE = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
ROW = re.compile(r"^\| `([\w:]+)` \| (\w+) \|([^|]*)\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
ROWS = {name: (kind, re.findall(r"`(\w+)`", labels), unit.strip()) for name, kind, labels, unit, _ in ROW.findall(PAGE)}
UNITS = {"_seconds": "seconds", "_bytes": "bytes"}


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
