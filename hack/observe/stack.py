"""A real Prometheus and its operator on the local cluster, compiled here; `make observe` tries the chart's monitoring
with them.

What people have on their clusters is what it has to work with: so nothing here scrapes or evaluates by itself, but
Prometheus does, as the chart's PodMonitor, ServiceMonitor and PrometheusRule tell it.
"""

import hashlib
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from hack.cluster import api, buildah, registry
from hack.cluster.binaries import PROMETHEUS, PROMETHEUS_OPERATOR, binary, ensure_program
from hack.cluster.failures import ClusterError
from hack.cluster.layout import PROJECT, REGISTRY
from hack.cluster.progress import step

NAMESPACE: Final = "observe"
PACE: Final = "hastened"
"""The label by which hastened alerts are told from the chart's own."""
VERSION: Final = "v3.16.0"
"""Prometheus' own number of the Go module 0.316.0."""
INTERVAL: Final = "5s"
PATIENCE_SECONDS: Final = 300.0
ALERTS: Final = PROJECT / "charts" / "neuronmodel" / "files" / "alerts.yaml"
USER: Final = 65532
_DEFINITIONS: Final = "example/prometheus-operator-crd"
_OPERATOR_MODULE: Final = "github.com/prometheus-operator/prometheus-operator"
# Addresses of this machine's own cluster: never through a proxy.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Object = dict[str, Any]


def ensure() -> None:
    """Both run on the cluster, and Prometheus answers. Raises ClusterError."""
    prometheus = _image(ensure_program(PROMETHEUS))
    operator = _image(ensure_program(PROMETHEUS_OPERATOR))
    reloader = _image(binary("prometheus-config-reloader"))
    with step("installing Prometheus and its operator"):
        for file in sorted(_definitions().glob("*.yaml")):
            api.kubectl("apply", "--server-side", "--force-conflicts", f"--filename={file}")
        api.apply(*_accounts(), _operator(operator, reloader))
        api.apply(_prometheus(prometheus))
        _wait_for_answer()


def remove() -> None:
    """Prometheus and its operator; the definitions stay, as anything may be of their kind."""
    api.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found")
    api.kubectl("delete", "clusterrolebinding", NAMESPACE, "--ignore-not-found")


def query(expression: str) -> list[Object]:
    """Returns the series of an instant query."""
    found: list[Object] = _ask("query", query=expression)["result"]
    return found


def query_range(expression: str, seconds: float, step_seconds: float) -> list[Object]:
    """Returns the series of the last seconds."""
    now = time.time()
    times = {"start": f"{now - seconds:.3f}", "end": f"{now:.3f}", "step": f"{step_seconds:.3f}"}
    found: list[Object] = _ask("query_range", query=expression, **times)["result"]
    return found


def metric_names(seconds: float) -> set[str]:
    """Returns the names of all series that there were in the last seconds."""
    now = time.time()
    return set(_ask("label/__name__/values", start=f"{now - seconds:.3f}", end=f"{now:.3f}"))


def rule_groups() -> set[str]:
    """Returns the names of the groups of rules that Prometheus has loaded."""
    return {group["name"] for group in _ask("rules")["groups"]}


def firing() -> set[str]:
    """Returns the names of the hastened alerts that fire now."""
    return {
        alert["labels"]["alertname"]
        for alert in _ask("alerts")["alerts"]
        if alert["state"] == "firing" and alert["labels"].get("pace") == PACE
    }


def hastened_alerts() -> Object:
    """Returns the chart's rules with a second in the place of each minute, and a minute in that of each hour: what
    fires after ten minutes can be seen to fire and to resolve."""
    text = re.sub(r"\b(\d+)m\b", r"\1s", ALERTS.read_text())
    text = re.sub(r"\b(\d+)h\b", r"\1m", text)
    groups = yaml.safe_load(text)["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        rule["labels"]["pace"] = PACE
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": PACE, "namespace": NAMESPACE},
        "spec": {"groups": [group | {"name": f"{group['name']}-{PACE}", "interval": "2s"} for group in groups]},
    }


def _ask(path: str, **parameters: str) -> Any:
    (pod,) = _pods("app.kubernetes.io/name=prometheus")
    url = f"http://{pod['status']['podIP']}:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with _OPENER.open(url, timeout=60) as answer:
        return json.load(answer)["data"]


def _pods(labels: str) -> list[Object]:
    found: list[Object] = api.get("pods", f"--namespace={NAMESPACE}", f"--selector={labels}")["items"]
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def _wait_for_answer() -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _ask("alerts")
            return
        except (OSError, ValueError, KeyError) as error:
            if time.monotonic() > deadline:
                described = api.kubectl("get", "pods,prometheuses", f"--namespace={NAMESPACE}", "--output=wide")
                raise ClusterError(f"Prometheus does not answer: {error}\n{described}") from error
        time.sleep(1)


def _image(program: Path) -> str:
    """A program and nothing else, pushed to the local registry. It is static."""
    tag = hashlib.sha256(program.read_bytes()).hexdigest()[:12]
    repository = f"{NAMESPACE}/{program.name}"
    reference = f"{REGISTRY}/{repository}:{tag}"
    if not registry.holds(repository, tag):
        with step(f"pushing {reference}"):
            buildah.build_of_program(program, reference, user=USER)
            buildah.push(reference)
    return reference


def _definitions() -> Path:
    """The operator's definitions, as its own module has them."""
    command = ["go", "list", "-m", "-f", "{{.Dir}}", _OPERATOR_MODULE]
    done = subprocess.run(command, cwd=PROMETHEUS_OPERATOR.folder, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip()) / _DEFINITIONS


def _accounts() -> Sequence[Object]:
    """One account for both. It may do everything, on a cluster that holds nothing but tests."""
    account = {"kind": "ServiceAccount", "name": NAMESPACE, "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    return (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAMESPACE, "namespace": NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAMESPACE},
            "roleRef": role,
            "subjects": [account],
        },
    )


def _operator(image: str, reloader: str) -> Object:
    labels: Mapping[str, str] = {"app": "prometheus-operator"}
    container = {
        "name": "operator",
        "image": image,
        "args": [f"--prometheus-config-reloader={reloader}", "--config-reloader-cpu-request=10m"],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "prometheus-operator", "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"serviceAccountName": NAMESPACE, "containers": [container]},
            },
        },
    }


def _prometheus(image: str) -> Object:
    everything: Object = {}
    selectors = ("serviceMonitor", "podMonitor", "rule")
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": NAMESPACE, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "image": image,
            "version": VERSION,
            "serviceAccountName": NAMESPACE,
            "scrapeInterval": INTERVAL,
            "evaluationInterval": INTERVAL,
            "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
            "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER},
            **{f"{kind}Selector": everything for kind in selectors},
            **{f"{kind}NamespaceSelector": everything for kind in selectors},
        },
    }
