"""The chart's monitoring with a real Prometheus and its operator: every metric of the page has a value, every alert
fires when its cause is provoked and resolves afterwards, every query of the dashboard returns series.

`make observe` runs it. The rules are the chart's with seconds in the place of minutes.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from hack.observe import dashboard, picture, stack
from neuronmodel_api.conditions import ConditionType
from tests.paths import PROJECT

from . import outages
from .capital import MODEL, SPEC
from .chart import NAMESPACE, RELEASE, Chart
from .chat import completion
from .cluster import Cluster
from .neuronmodels import Applied, Expected, merged, neuron_model, wait_for_starts
from .room import Room
from .waiting import eventually

pytestmark = pytest.mark.observe

PAGE: Final = (PROJECT / "docs" / "reference" / "metrics.md").read_text()
METRICS: Final = re.findall(r"^\| `([\w:]+)` \| (\w+) \|", PAGE, re.MULTILINE)
MONITORING: Final = {
    "serviceMonitor": {"enabled": True, "interval": "2s"},
    "podMonitor": {"enabled": True, "interval": "2s"},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
}
NUM_WAITING: Final = 600
PICTURE: Final = os.environ.get("NEURONMODEL_PICTURE")
"""A file that the dashboard's panels are drawn into, at the end."""


class Observed:
    """The room, what Prometheus has seen of it, and which alerts fired and resolved."""

    def __init__(self, room: Room, chart: Chart) -> None:
        self.room, self.chart = room, chart
        self.fired: set[str] = set()
        self.resolved: set[str] = set()

    @property
    def cluster(self) -> Cluster:
        return self.room.cluster

    @contextmanager
    def provoked(self, alert: str) -> Iterator[None]:
        """The alert fires while the context is open, and resolves after it."""
        yield
        self.waits_for(alert, lambda: alert not in stack.firing(), "to resolve")
        self.resolved.add(alert)

    def fires(self, alert: str) -> None:
        self.waits_for(alert, lambda: alert in stack.firing(), "to fire")
        self.fired.add(alert)

    def waits_for(self, alert: str, met: Callable[[], bool], what: str) -> None:
        rule = next(
            rule
            for group in stack.hastened_alerts()["spec"]["groups"]
            for rule in group["rules"]
            if rule["alert"] == alert
        )
        eventually(
            met, what=f"{alert} {what}", instead=lambda: json.dumps(stack.query(rule["expr"]), indent=1), poll=0.5
        )

    def tiny(self, name: str, **options: object) -> Applied:
        model, _ = self.room.neuron_model(name, self.room.tiny(name), **options)
        return model


@pytest.fixture(scope="module")
def observed(room: Room, chart: Chart) -> Iterator[Observed]:
    stack.ensure()
    chart.install(metrics=MONITORING)
    room.cluster.kubectl("apply", "--filename=-", stdin=json.dumps(stack.hastened_alerts()))
    try:
        yield Observed(room, chart)
    finally:
        chart.install()
        stack.remove()


@pytest.fixture(scope="module")
def served(observed: Observed) -> Applied:
    """It answers, has been started several times, and lost its pod for longer than usual once."""
    verified = {"verification": "Full"}
    model = observed.tiny("served", artifacts=verified, serving={"apiKeySecretRef": None})
    model.wait_for_start()
    for _ in range(3):
        completion(model, "w1 w2 w3", num_tokens=8)
    return model


def restarted(model: Applied) -> None:
    before = model.finished_start()
    assert before is not None
    model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace, grace_seconds=0)
    wait_for_starts(Expected(model, None, before.id))


def test_a_lost_worker_and_a_start_that_took_longer_than_usual(observed: Observed, served: Applied) -> None:
    """No node takes its pod for a while."""
    restarted(served)
    restarted(served)
    before = served.finished_start()
    assert before is not None
    with observed.provoked("NeuronModelStartSlow"), observed.provoked("NeuronModelNotReady"):
        observed.cluster.kubectl("cordon", "plain", "trn2")
        try:
            name = served.serving_pod()["metadata"]["name"]
            observed.cluster.delete("Pod", name, served.namespace, grace_seconds=0)
            observed.fires("NeuronModelNotReady")
            time.sleep(20)
        finally:
            observed.cluster.kubectl("uncordon", "plain", "trn2")
        wait_for_starts(Expected(served, None, before.id))
        observed.fires("NeuronModelStartSlow")
    assert any(note.startswith("SlowerThanUsual") for note in served.status.starts[0].notes)


def test_fewer_workers_than_wanted(observed: Observed, served: Applied) -> None:
    with observed.provoked("NeuronModelReplicasMissing"):
        served.change(serving={"replicas": 2})
        observed.fires("NeuronModelReplicasMissing")
        served.change(serving={"replicas": 1})


def test_a_source_that_is_not_there_and_a_prepare_that_fails_again_and_again(observed: Observed) -> None:
    with observed.provoked("NeuronModelFailed"), observed.provoked("NeuronModelPrepareFailing"):
        model, _ = observed.room.neuron_model("astray", observed.room.path("nowhere"))
        model.wait_for_condition(ConditionType.READY, "False")
        for _ in range(2):
            tried_again(model)
        observed.fires("NeuronModelPrepareFailing")
        observed.fires("NeuronModelFailed")
        model.delete()


def tried_again(model: Applied) -> None:
    before = {job["metadata"]["uid"] for job in model.prepare_jobs()}
    model.retry()
    eventually(lambda: {job["metadata"]["uid"] for job in model.prepare_jobs()} - before, what="another attempt")
    model.wait_for_condition(ConditionType.READY, "False")


def test_a_start_that_makes_no_progress(observed: Observed) -> None:
    with observed.provoked("NeuronModelStartStuck"):
        model = observed.tiny("stuck", serving={"startTimeoutSeconds": 6})
        pod = eventually(lambda: next(iter(model.serving_pods()), None), what="a worker", instead=model.story)
        try:
            stopped = eventually(
                lambda: outages.send(pod, "neuronmodel", signal.SIGSTOP), what="its process", poll=0.02
            )
            assert stopped
            observed.fires("NeuronModelStartStuck")
        finally:
            outages.send(pod, "neuronmodel", signal.SIGCONT)
        model.wait_for_condition(ConditionType.READY, "True")
    model.delete()


def test_damaged_artifacts(observed: Observed, served: Applied) -> None:
    with observed.provoked("NeuronModelArtifactQuarantined"):
        artifacts, folder = served.status.artifacts, served.artifacts_folder
        assert artifacts is not None
        assert folder is not None
        file = folder / "shards" / str(artifacts.shards_key) / "weights" / "tp1_sharded_checkpoint.safetensors"
        with file.open("r+b") as opened:
            opened.seek(-20, os.SEEK_END)
            (byte,) = opened.read(1)
            opened.seek(-1, os.SEEK_CUR)
            opened.write(bytes([byte ^ 1]))
        restarted(served)
        observed.fires("NeuronModelArtifactQuarantined")


def test_a_volume_that_is_nearly_full(observed: Observed) -> None:
    with observed.provoked("NeuronModelVolumeNearlyFull"):
        folder = observed.room.claim_volume("small", "named-small-0")
        claim = {"template": None, "persistentVolumeClaim": {"claimName": "small"}}
        model = observed.tiny("small", artifacts=claim)
        model.wait_for_start()
        filler = folder / "filler"
        filler.write_bytes(bytes(free_bytes(folder) * 95 // 100))
        try:
            observed.fires("NeuronModelVolumeNearlyFull")
        finally:
            filler.unlink()
    model.delete()


def free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_a_worker_that_prepares_is_scraped_too(observed: Observed) -> None:
    """One that takes its time: most are over before they are found."""
    slow = {"resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"cpu": "150m"}}}
    model = observed.tiny("slowly", prepare=slow)
    expression = (
        'last_over_time(neuronmodel_start_phase_seconds{stage="Prepare", model="slowly", component="prepare"}[30m])'
    )
    eventually(lambda: stack.query(expression), what="phases of a prepare", instead=model.story, poll=1)
    model.delete()


def test_every_metric_of_the_page_has_a_value(observed: Observed, served: Applied) -> None:
    """Some once a worker seals behind its answers, notes something, or an error of the operator's has happened."""
    behind, _ = observed.room.neuron_model("behind", MODEL, **merged(SPEC, {"sharding": {"seal": "Behind"}}))
    behind.wait_for_start()
    completion(served, "w1 w2 w3", num_tokens=8)
    wanted = {sample_of(name, kind) for name, kind in METRICS} - SELDOM
    eventually(
        lambda: wanted <= stack.metric_names(1800),
        what="every metric to have a value",
        instead=lambda: f"without one: {sorted(wanted - stack.metric_names(1800))}",
        poll=1,
    )
    behind.delete()


SELDOM: Final = frozenset({"neuronmodel_operator_errors_total", "neuronmodel_start_note"})
"""Of an error and a note, which do not happen here by themselves."""


def sample_of(name: str, kind: str) -> str:
    return f"{name}_bucket" if kind == "histogram" else name


def test_every_query_of_the_dashboard_returns_series(observed: Observed, served: Applied) -> None:
    queries = [query.expression for row in dashboard.ROWS for panel in row.panels for query in panel.queries]
    eventually(
        lambda: all(stack.query(picture.filled_in(query)) for query in queries),
        what="every query to return series",
        instead=lambda: "\n".join(query for query in queries if not stack.query(picture.filled_in(query))),
        poll=1,
    )
    if PICTURE:
        picture.main([PICTURE])


def test_an_operator_that_does_not_keep_up(observed: Observed) -> None:
    with observed.provoked("NeuronModelOperatorBehind"):
        waiting = [neuron_model(f"waiting-{number}", "nowhere", claim="absent") for number in range(NUM_WAITING)]
        for each in waiting:
            each["metadata"]["namespace"] = observed.room.namespace
        everything = {"apiVersion": "v1", "kind": "List", "items": waiting}
        observed.cluster.kubectl("create", "--filename=-", stdin=json.dumps(everything), timeout=600)
        observed.fires("NeuronModelOperatorBehind")
        names_of = [f"nm/{each['metadata']['name']}" for each in waiting]
        observed.cluster.kubectl(
            "delete", "--wait=false", f"--namespace={observed.room.namespace}", *names_of, timeout=600
        )


def test_no_operator(observed: Observed) -> None:
    with observed.provoked("NeuronModelOperatorDown"):
        scale = ("scale", f"deployment/{RELEASE}", f"--namespace={NAMESPACE}")
        observed.cluster.kubectl(*scale, "--replicas=0")
        observed.fires("NeuronModelOperatorDown")
        observed.cluster.kubectl(*scale, "--replicas=1")


def test_prometheus_has_the_charts_own_rules(observed: Observed) -> None:
    assert {"neuronmodel", f"neuronmodel-{stack.PACE}"} <= stack.rule_groups()


def test_every_alert_fired_and_resolved(observed: Observed) -> None:
    alerts = {rule["alert"] for group in stack.hastened_alerts()["spec"]["groups"] for rule in group["rules"]}
    assert observed.fired == observed.resolved == alerts
