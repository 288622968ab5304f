"""`python -m hack.observe.dashboard`: writes the chart's Grafana dashboard.

A panel is a title, a unit and queries; where it lies follows from its row. Durations are `$__rate_interval`, which
Grafana replaces.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PROJECT = Path(__file__).resolve().parents[2]
FILE: Final = PROJECT / "charts" / "neuronmodel" / "files" / "dashboard.json"
RATE: Final = "$__rate_interval"
COLUMNS: Final = 24
HEIGHT: Final = 7
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}

MODEL: Final = 'namespace=~"$namespace", name=~"$model"'
"""Of the operator's metrics of a NeuronModel."""
WORKER: Final = 'namespace=~"$namespace", model=~"$model"'
"""Of a worker's, by the labels that the PodMonitor gives them."""


@dataclass(frozen=True)
class Query:
    expression: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    """Grafana's name of it: timeseries, stat, table or barchart."""
    width: int = 8
    description: str = ""


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...] = field(default=())


def _quantiles(
    metric: str, selector: str = f"{{{WORKER}}}", quantiles: Sequence[float] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by (le) (rate({metric}_bucket{selector}[{RATE}])))",
            f"p{round(quantile * 100)}",
        )
        for quantile in quantiles
    )


ROWS: Final = (
    Row(
        "Fleet",
        (
            Panel(
                "Ready",
                "short",
                (Query('sum(neuronmodel_operator_models{condition="Ready", status="True"})', "ready"),),
                "stat",
                4,
            ),
            Panel(
                "Not ready",
                "short",
                (
                    Query(
                        'sum(neuronmodel_operator_models{condition="Ready", status!="True"}) or vector(0)', "not ready"
                    ),
                ),
                "stat",
                4,
            ),
            Panel(
                "What is wrong",
                "short",
                (
                    Query(
                        'sum by (reason) (neuronmodel_model_condition{condition="Ready", status!="True"}) or vector(0)',
                        "{{reason}}",
                    ),
                ),
            ),
            Panel(
                "Starts an hour",
                "short",
                (Query("sum by (outcome) (increase(neuronmodel_model_starts_total[1h])) or vector(0)", "{{outcome}}"),),
            ),
            Panel(
                "Longest loads",
                "s",
                (Query("topk(10, neuronmodel_model_last_load_seconds)", "{{namespace}}/{{name}}"),),
                "barchart",
                12,
            ),
            Panel(
                "Room on volumes",
                "percentunit",
                (
                    Query(
                        "bottomk(10, neuronmodel_volume_available_bytes / neuronmodel_volume_size_bytes)",
                        "{{namespace}}/{{model}} {{volume}} {{pod}}",
                    ),
                ),
                width=12,
            ),
        ),
    ),
    Row(
        "A model",
        (
            Panel(
                "Conditions",
                "short",
                (Query(f"neuronmodel_model_condition{{{MODEL}}} == 1", "{{condition}} {{status}} {{reason}}"),),
                "table",
                12,
            ),
            Panel(
                "Workers",
                "short",
                (
                    Query(f"neuronmodel_model_replicas_wanted{{{MODEL}}}", "wanted {{name}}"),
                    Query(f"neuronmodel_model_replicas_ready{{{MODEL}}}", "ready {{name}}"),
                ),
                width=6,
            ),
            Panel(
                "Start under way",
                "s",
                (Query(f"neuronmodel_model_start_running_seconds{{{MODEL}}} or vector(0)", "{{name}}"),),
                width=6,
            ),
            Panel(
                "Starts",
                "short",
                (Query(f"neuronmodel_model_starts_total{{{MODEL}}}", "{{name}} {{outcome}} {{cause}} {{cache}}"),),
            ),
            Panel(
                "Events",
                "short",
                (Query(f"neuronmodel_model_events_total{{{MODEL}}}", "{{name}} {{type}} {{reason}}"),),
            ),
            Panel(
                "Cache",
                "short",
                (Query(f"neuronmodel_model_cache{{{MODEL}}}", "{{name}} {{cache}} {{because}}"),),
                "table",
            ),
        ),
    ),
    Row(
        "A start, phase by phase",
        (
            Panel(
                "Seconds of each phase",
                "s",
                (Query(f"neuronmodel_start_phase_seconds{{{WORKER}}}", "{{pod}} {{stage}} {{phase}}"),),
                "barchart",
                12,
            ),
            Panel(
                "Rate of each phase",
                "Bps",
                (
                    Query(
                        f"neuronmodel_start_phase_bytes{{{WORKER}}} "
                        f"/ (neuronmodel_start_phase_seconds{{{WORKER}}} > 0)",
                        "{{pod}} {{stage}} {{phase}}",
                    ),
                ),
                "barchart",
                12,
            ),
            Panel(
                "The disk, beside its probe",
                "Bps",
                (
                    Query(
                        f"neuronmodel_disk_bytes_per_second{{{WORKER}}}",
                        "{{pod}} {{direction}} {{measured}}",
                    ),
                ),
                "barchart",
                12,
            ),
            Panel(
                "Slower than usual",
                "short",
                (Query(f"neuronmodel_model_slower_starts_total{{{MODEL}}} or vector(0)", "{{name}} {{phase}}"),),
                width=6,
            ),
            Panel(
                "Notes of starts",
                "short",
                (Query(f"neuronmodel_start_note{{{WORKER}}} or vector(0)", "{{pod}} {{reason}}"),),
                "table",
                6,
            ),
        ),
    ),
    Row(
        "Serving",
        (
            Panel(
                "Requests a second",
                "reqps",
                (Query(f"sum by (status) (rate(neuronmodel_requests_total{{{WORKER}}}[{RATE}]))", "{{status}}"),),
            ),
            Panel(
                "Queue",
                "short",
                (
                    Query(f"sum(neuronmodel_requests_waiting{{{WORKER}}})", "waiting"),
                    Query(f"sum(neuronmodel_requests_running{{{WORKER}}})", "running"),
                ),
            ),
            Panel(
                "Tokens a second",
                "short",
                (
                    Query(f"sum(rate(neuronmodel_generated_tokens_total{{{WORKER}}}[{RATE}]))", "generated"),
                    Query(f"sum(rate(neuronmodel_prompt_tokens_total{{{WORKER}}}[{RATE}]))", "of prompts"),
                ),
            ),
            Panel("Time to first token", "s", _quantiles("neuronmodel_time_to_first_token_seconds")),
            Panel("Time between tokens", "s", _quantiles("neuronmodel_time_between_tokens_seconds")),
            Panel("Whole answers", "s", _quantiles("neuronmodel_answer_seconds")),
        ),
    ),
    Row(
        "Operator",
        (
            Panel(
                "Passes a second",
                "short",
                (
                    Query(
                        f"sum by (outcome) (rate(neuronmodel_operator_reconciles_total[{RATE}])) or vector(0)",
                        "{{outcome}}",
                    ),
                ),
            ),
            Panel(
                "A pass",
                "s",
                _quantiles("neuronmodel_operator_reconcile_duration_seconds", "", (0.5, 0.99)),
            ),
            Panel(
                "Being behind",
                "short",
                (
                    Query("max(neuronmodel_operator_waiting_models)", "waiting NeuronModels"),
                    Query("max(neuronmodel_operator_overdue_seconds)", "seconds overdue"),
                ),
            ),
            Panel(
                "Requests to the API server a second",
                "reqps",
                (
                    Query(
                        f"sum by (verb, code) (rate(neuronmodel_operator_api_calls_total[{RATE}]))", "{{verb}} {{code}}"
                    ),
                ),
            ),
            Panel(
                "Failed passes a second",
                "short",
                (
                    Query(
                        f"sum by (kind) (rate(neuronmodel_operator_errors_total[{RATE}])) or vector(0)",
                        "{{kind}}",
                    ),
                ),
            ),
            Panel(
                "Objects that it remembers",
                "bytes",
                (Query("sum by (kind) (neuronmodel_operator_mirrored_bytes)", "{{kind}}"),),
            ),
            Panel(
                "Silence of its watches",
                "s",
                (Query("max by (kind) (neuronmodel_operator_watch_age_seconds)", "{{kind}}"),),
            ),
        ),
    ),
)


def dashboard(rows: Iterable[Row] = ROWS) -> dict[str, Any]:
    return {
        "uid": "neuronmodel",
        "title": "NeuronModels",
        "tags": ["neuronmodel"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels(rows)),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    models = "neuronmodel_model_replicas_wanted"
    yield _variable("namespace", "Namespace", f"label_values({models}, namespace)")
    yield _variable("model", "NeuronModel", f'label_values({models}{{namespace=~"$namespace"}}, name)')


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels(rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
    number, top = 1, 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
        number, top, left = number + 1, top + 1, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left = top + HEIGHT, 0
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": HEIGHT})
            number, left = number + 1, left + panel.width
        top += HEIGHT


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    is_instant = panel.kind != "timeseries"
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + place_of_query),
                "datasource": DATASOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "instant": is_instant,
                "range": not is_instant,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for place_of_query, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


def main() -> int:
    FILE.write_text(text())
    print(f"wrote {FILE.relative_to(PROJECT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
