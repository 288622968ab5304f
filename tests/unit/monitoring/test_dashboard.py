"""Every query of the dashboard returns series of what is scraped; the chart has what is made here."""

import re
from pathlib import Path
from typing import Any, Final

import pytest

from hack.observe import dashboard
from tests import promtool
from tests.paths import PROJECT
from tests.recorded_metrics import everything

METRICS: Final = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
QUERIES: Final = [query.expression for row in dashboard.ROWS for panel in row.panels for query in panel.queries]
VARIABLES: Final = {"$__rate_interval": "5m", "$namespace": "demo", "$model": "smol"}


def filled_in(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def test_the_chart_has_the_dashboard_that_is_made_here() -> None:
    """`python -m hack.observe.dashboard` writes it."""
    assert dashboard.FILE.read_text() == dashboard.text()


def test_every_query_returns_series_of_what_is_scraped(tmp_path: Path) -> None:
    """`or vector(0)` is left out, which would always return one; what is not there in this recording is then named."""
    series = [
        {"series": text, "values": "0+1x240" if counts else f"{sample.value}x240"}
        for scraped in everything()
        for text, sample, counts in scraped.series()
    ]
    bare = [filled_in(query).removesuffix(" or vector(0)") for query in QUERIES]
    tests = [
        {"expr": f"count({query}) > bool 0", "eval_time": "1h", "exp_samples": [{"labels": "{}", "value": 1}]}
        for query in bare
        if query not in NOTHING_IS_WRONG
    ]
    assert len(tests) == len(bare) - len(NOTHING_IS_WRONG)
    rules: dict[str, Any] = {"groups": []}
    promtool.run_cases(tmp_path, rules, [{"interval": "30s", "input_series": series, "promql_expr_test": tests}])


NOTHING_IS_WRONG: Final = (
    'sum(neuronmodel_operator_models{condition="Ready", status!="True"})',
    'sum by (reason) (neuronmodel_model_condition{condition="Ready", status!="True"})',
)


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_is_about_metrics_that_there_are(query: str) -> None:
    for name in set(re.findall(r"neuronmodel_\w+", query)):
        assert f"| `{re.sub('_bucket$', '', name)}` |" in METRICS


def test_no_panel_lies_upon_another() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in dashboard.dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= dashboard.COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"]


def test_every_panel_has_a_title_of_its_own() -> None:
    titles = [panel.title for row in dashboard.ROWS for panel in row.panels]
    assert len(titles) == len(set(titles))
