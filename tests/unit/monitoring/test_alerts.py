"""Each alert fires when its cause is there, and only then; each has a page that says what to do."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests import promtool
from tests.paths import PROJECT

FILE: Final = PROJECT / "charts" / "neuronmodel" / "files" / "alerts.yaml"
RUNBOOKS: Final = PROJECT / "docs" / "runbooks"
METRICS: Final = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
RULES: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]
}
HEADINGS: Final = ["What it means", "What to look at", "What to do"]
MODEL: Final = 'namespace="demo",name="smol"'
WORKER: Final = 'namespace="demo",model="smol",pod="smol-1"'


@dataclass(frozen=True)
class Case:
    """Series by their values in Prometheus' notation, one every 30 seconds, and whether the alert fires after so
    long."""

    alert: str
    name: str
    after: str
    series: dict[str, str]
    fires: bool = True


def condition(kind: str, status: str, reason: str) -> str:
    return f'neuronmodel_model_condition{{{MODEL},condition="{kind}",status="{status}",reason="{reason}"}}'


def lost(since: str = "1x10 0x200", wanted: str = "1x300") -> dict[str, str]:
    return {
        f"neuronmodel_model_replicas_wanted{{{MODEL}}}": wanted,
        f"neuronmodel_model_replicas_ready{{{MODEL}}}": since,
        f"neuronmodel_model_last_load_seconds{{{MODEL}}}": "30x300",
    }


def replicas(ready: str, wanted: str = "3x300") -> dict[str, str]:
    return {
        f"neuronmodel_model_replicas_wanted{{{MODEL}}}": wanted,
        f"neuronmodel_model_replicas_ready{{{MODEL}}}": ready,
    }


def prepares(values: str, status: str = "False") -> dict[str, str]:
    return {
        f'neuronmodel_model_events_total{{{MODEL},type="Normal",reason="PrepareStarted"}}': values,
        condition("ArtifactsReady", status, "PrepareFailed"): "1x1100",
    }


def changes(values: str) -> dict[str, str]:
    return {
        f'neuronmodel_model_events_total{{{MODEL},type="Normal",reason="PrepareStarted"}}': values,
        condition("ArtifactsReady", "Unknown", "Preparing"): "1x300",
    }


def by_two_operators(series: dict[str, str]) -> dict[str, str]:
    """The same of one pod until it goes, and of another one from then on."""
    of_two = {}
    for name, values in series.items():
        times = values.split(" ")
        of_two[name.replace("}", ',pod="old"}')] = (
            f"{times[0].partition('x')[0]}x10 {times[-1].partition('x')[0]}x9 _x300"
        )
        of_two[name.replace("}", ',pod="new"}')] = f"_x24 {times[-1].partition('x')[0]}x300"
    return of_two


def quarantined(values: str) -> dict[str, str]:
    return {f'neuronmodel_model_events_total{{{MODEL},type="Warning",reason="ArtifactQuarantined"}}': values}


def room(volume: str, available: int) -> dict[str, str]:
    labels = f'{{{WORKER},volume="{volume}"}}'
    return {
        f"neuronmodel_volume_size_bytes{labels}": "1000x300",
        f"neuronmodel_volume_available_bytes{labels}": f"{available}x300",
    }


def slower(values: str) -> dict[str, str]:
    return {f'neuronmodel_model_slower_starts_total{{{MODEL},phase="Read"}}': values}


TERMINATING: Final = condition("Ready", "False", "Terminating")
READY: Final = condition("Ready", "True", "Serving")
UNDER_WAY: Final = condition("Ready", "Unknown", "Preparing")
CANNOT_LOOK: Final = condition("Ready", "Unknown", "CannotLook")
FAILED: Final = condition("Ready", "False", "SourceNotFound")
SLOW: Final = "NeuronModelStartSlow"
QUARANTINED: Final = "NeuronModelArtifactQuarantined"
PREPARE: Final = "NeuronModelPrepareFailing"
PASSES: Final = 'neuronmodel_operator_reconciles_total{outcome="Done"}'
DOWN: Final = "NeuronModelOperatorDown"
BEHIND: Final = "NeuronModelOperatorBehind"
FULL: Final = "NeuronModelVolumeNearlyFull"
RELEASE: Final = 'neuronmodel_operator_ready{namespace="one",job="one"}'
CASES: Final = (
    Case("NeuronModelNotReady", "lost", "20m", lost()),
    Case("NeuronModelNotReady", "lost a moment ago", "10m", lost(), fires=False),
    Case("NeuronModelNotReady", "suspended", "60m", lost(wanted="0x300"), fires=False),
    Case("NeuronModelNotReady", "back again", "40m", lost("1x10 0x40 1x200"), fires=False),
    Case("NeuronModelNotReady", "never was ready", "60m", replicas("0x300"), fires=False),
    Case("NeuronModelNotReady", "on its way out", "60m", lost() | {TERMINATING: "1x300"}, fires=False),
    Case("NeuronModelNotReady", "by another pod of the operator meanwhile", "18m", by_two_operators(lost())),
    Case("NeuronModelReplicasMissing", "two of three", "35m", replicas("2x300")),
    Case("NeuronModelReplicasMissing", "all", "60m", replicas("3x300"), fires=False),
    Case("NeuronModelReplicasMissing", "none, which another alert says", "60m", replicas("0x300"), fires=False),
    Case("NeuronModelFailed", "a bad source", "20m", {FAILED: "1x300"}),
    Case("NeuronModelFailed", "mended in time", "20m", {FAILED: "1x20 _x280", READY: "_x20 1x280"}, fires=False),
    Case("NeuronModelFailed", "an attempt now and then", "40m", {FAILED: "1x20 _x4 1x10 _x4 1x10 _x4 1x10 _x4 1x300"}),
    Case("NeuronModelFailed", "an operator that may not look", "20m", {CANNOT_LOOK: "1x300"}),
    Case("NeuronModelFailed", "under way", "60m", {UNDER_WAY: "1x300"}, fires=False),
    Case("NeuronModelFailed", "suspended", "60m", {condition("Ready", "False", "Suspended"): "1x300"}, fires=False),
    Case("NeuronModelStartStuck", "stuck", "3m", {condition("Loaded", "False", "StartStuck"): "1x300"}),
    Case(
        "NeuronModelStartStuck", "under way", "60m", {condition("Loaded", "Unknown", "Loading"): "1x300"}, fires=False
    ),
    Case(SLOW, "the first that is counted", "10m", slower("_x10 1x300")),
    Case(SLOW, "one more", "100m", slower("3x180 4x100")),
    Case(SLOW, "more than an hour ago", "100m", slower("_x10 1x300"), fires=False),
    Case(SLOW, "an operator that began anew", "100m", slower("3x180 0x100"), fires=False),
    Case(SLOW, "one more after that", "100m", slower("3x180 1x100")),
    Case(SLOW, "a gap an hour ago", "125m", slower("3x100 _x60 3x300"), fires=False),
    Case(PREPARE, "three in an hour", "40m", prepares("1x20 2x20 3x200")),
    Case(PREPARE, "two in an hour", "40m", prepares("1x20 2x220"), fires=False),
    Case(PREPARE, "succeeded", "40m", prepares("1x20 2x20 3x200", "True"), fires=False),
    Case(PREPARE, "every half hour", "300m", prepares("1x60 2x60 3x60 4x60 5x60 6x60 7x60 8x60 9x60 10x60 11x60")),
    Case(PREPARE, "long ago", "500m", prepares("1x20 2x20 3x1000"), fires=False),
    Case(PREPARE, "changes of the spec without a failure", "40m", changes("1x20 2x20 3x200"), fires=False),
    Case(QUARANTINED, "a set", "10m", quarantined("_x10 1x300")),
    Case(QUARANTINED, "more than an hour ago", "100m", quarantined("_x10 1x300"), fires=False),
    Case(FULL, "artifacts", "10m", room("Artifacts", 90)),
    Case(FULL, "artifacts with room", "60m", room("Artifacts", 110), fires=False),
    Case(FULL, "scratch", "10m", room("Scratch", 40)),
    Case(FULL, "scratch with its tenth but a little", "60m", room("Scratch", 90), fires=False),
    Case(BEHIND, "many wait", "20m", {"neuronmodel_operator_waiting_models": "40x300"}),
    Case(BEHIND, "a hang", "8m", {"neuronmodel_operator_overdue_seconds": "500x300"}),
    Case(BEHIND, "restarted again and again", "32m", {PASSES: "1+1x20 0+1x20 0+1x300"}),
    Case(BEHIND, "restarted once", "32m", {PASSES: "1+1x20 0+1x300"}, fires=False),
    Case(BEHIND, "a burst", "60m", {"neuronmodel_operator_waiting_models": "0x60 40x5 0x235"}, fires=False),
    Case(DOWN, "not ready", "10m", {'neuronmodel_operator_ready{namespace="neuronmodel-system"}': "0x300"}),
    Case(DOWN, "not scraped", "10m", {"up": "1x300"}),
    Case(DOWN, "one release of two is gone", "30m", {RELEASE: "1x20 _x280", RELEASE.replace("one", "two"): "1x300"}),
    Case(DOWN, "ready", "60m", {'neuronmodel_operator_ready{namespace="neuronmodel-system"}': "1x300"}, fires=False),
    Case(
        DOWN,
        "one that stands by beside one that is ready",
        "60m",
        {
            'neuronmodel_operator_ready{namespace="neuronmodel-system",pod="a"}': "0x300",
            'neuronmodel_operator_ready{namespace="neuronmodel-system",pod="b"}': "1x300",
        },
        fires=False,
    ),
)


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    promtool.check_rules(FILE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert}, {case.name}")
def test_an_alert_fires_when_its_cause_is_there_and_only_then(case: Case, tmp_path: Path) -> None:
    """Only whether it fires: its labels and sentences are those of another test."""
    firing = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) > bool 0 or vector(0)'
    test = {
        "interval": "30s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "promql_expr_test": [
            {"expr": firing, "eval_time": case.after, "exp_samples": [{"labels": "{}", "value": int(case.fires)}]}
        ],
    }
    promtool.run_cases(tmp_path, yaml.safe_load(FILE.read_text()), [test])


def test_every_alert_has_cases_in_which_it_fires_and_does_not() -> None:
    assert {(case.alert, case.fires) for case in CASES} == {(name, fires) for name in RULES for fires in (True, False)}


@pytest.mark.parametrize(
    ("alert", "labels", "summary"),
    [
        ("NeuronModelFailed", {"reason": "SourceNotFound"}, "demo/smol is not Ready: SourceNotFound"),
        ("NeuronModelVolumeNearlyFull", {"volume": "Artifacts"}, "The volume Artifacts of demo/smol has 9% left"),
        ("NeuronModelStartSlow", {"phase": "Read"}, "A start of demo/smol took much longer"),
    ],
)
def test_an_alert_says_of_what_it_is(alert: str, labels: dict[str, str], summary: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.alert == alert and case.fires)
    of_target = {"namespace": "demo", "severity": RULES[alert]["labels"]["severity"]}
    of_target |= {"model": "smol"} if "volume" in labels else {"name": "smol"}
    expected = RULES[alert]["annotations"]["summary"]
    assert summary.split(" ")[0] in {"demo/smol", "The", "A"}
    for place, value in (of_target | labels).items():
        expected = expected.replace(f"{{{{ $labels.{place} }}}}", value)
    expected = expected.replace("{{ $value | humanizePercentage }}", "9%")
    assert summary in expected
    found = {"exp_labels": of_target | labels, "exp_annotations": {"summary": expected}}
    test = {
        "interval": "30s",
        "input_series": [{"series": series, "values": values} for series, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.after, "alertname": alert, "exp_alerts": [found]}],
    }
    promtool.run_cases(tmp_path, yaml.safe_load(FILE.read_text()), [test])


@pytest.mark.parametrize("alert", sorted(RULES))
def test_every_alert_has_a_page_of_what_it_means_and_what_to_do(alert: str) -> None:
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == HEADINGS
    severity = RULES[alert]["labels"]["severity"]
    assert f"| [{alert}]({alert}.md) | {severity} |" in (RUNBOOKS / "README.md").read_text()


def test_every_page_is_that_of_an_alert() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == set(RULES)


@pytest.mark.parametrize("alert", sorted(RULES))
def test_an_alert_is_about_metrics_that_there_are(alert: str) -> None:
    for name in set(re.findall(r"neuronmodel_\w+", RULES[alert]["expr"])):
        assert f"| `{name}` |" in METRICS
