"""The operator as its users install it: with Helm, from the chart, with images from a registry."""

import json
import subprocess
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hack.cluster.binaries import binary
from hack.cluster.layout import LAYOUT, PROJECT, REGISTRY
from tests.waiting import PATIENCE_SECONDS

from . import buckets, hub
from .cluster import Cluster, Object
from .waiting import eventually

CHART = PROJECT / "charts" / "neuronmodel"
RELEASE = "neuronmodel"
NAMESPACE = "neuronmodel-system"
HEALTH_PORT = 8080
REVISION_CHECK_SECONDS = 60
"""The least that the chart takes."""
HELM_PATIENCE = f"{PATIENCE_SECONDS:.0f}s"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
DOCKER_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
# Addresses of this machine's own cluster: never through a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Chart:
    """One release, and the images that it is installed with."""

    cluster: Cluster
    operator_image: str
    worker_image: str

    def install(self, **values: Any) -> None:
        """`helm upgrade --install`, and wait until the operator runs."""
        target = ("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace")
        waiting = ("--wait", "--timeout", HELM_PATIENCE, "--take-ownership", "--values", "-")
        helm(*target, *waiting, stdin=json.dumps(self._chosen(values)))

    def begin_upgrade(self, *, operator_image: str) -> None:
        """And wait for nothing."""
        values = replace(self, operator_image=operator_image)._chosen({})
        helm("upgrade", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", "-", stdin=json.dumps(values))

    def refusal_of_second(self, **values: Any) -> str:
        """What Helm says to one more release, of which nothing is left."""
        command = ("install", f"{RELEASE}-second", str(CHART), "--namespace", NAMESPACE, "--dry-run=server")
        done = attempt_helm(*command, "--values", "-", stdin=json.dumps(self._chosen(values)))
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _chosen(self, values: Mapping[str, Any]) -> dict[str, Any]:
        repository, _, tag = self.operator_image.rpartition(":")
        return {
            "image": {"repository": repository, "tag": tag},
            "workerImages": {"cpu": self.worker_image, "neuron": self.worker_image},
            "sources": {
                kind: {"endpoints": [endpoint], "revisionCheckSeconds": REVISION_CHECK_SECONDS}
                for kind, endpoint in (("huggingFace", hub.ENDPOINT), ("s3", buckets.ENDPOINT))
            },
            **values,
        }

    def uninstall(self) -> None:
        """And wait until the operator is gone: Helm waits for the Deployment alone."""
        helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", HELM_PATIENCE)
        eventually(lambda: not self.operator_pods(), what="the operator to go")

    def operator_pods(self) -> list[Object]:
        labels = f"app.kubernetes.io/instance={RELEASE}"
        return self.cluster.find("Pod", NAMESPACE, labels=labels)

    def operator_pod(self) -> Object:
        running = [pod for pod in self.operator_pods() if "deletionTimestamp" not in pod["metadata"]]
        assert len(running) == 1, [pod["metadata"]["name"] for pod in running]
        return running[0]

    def metric(self, sample: str) -> float | None:
        """Of the operator, by its name and labels as they are printed; None while there is none."""
        with _OPENER.open(
            f"http://{self.operator_pod()['status']['podIP']}:{HEALTH_PORT}/metrics", timeout=PATIENCE_SECONDS
        ) as page:
            lines = page.read().decode().splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.rpartition(" ")[0] == sample]
        return float(values[0]) if values else None


def helm(*arguments: str, stdin: str | None = None) -> str:
    done = attempt_helm(*arguments, stdin=stdin)
    assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr.strip()}"
    return done.stdout


def attempt_helm(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(binary("helm")), f"--kubeconfig={LAYOUT.kubeconfig}", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=2 * PATIENCE_SECONDS, check=False
    )


def with_second_tag(image: str, tag: str) -> str:
    """The same image under another tag, as a new release of it would be: the registry is given its manifest again."""
    repository, _, old = image.removeprefix(f"{REGISTRY}/").rpartition(":")
    accepted = {"Accept": f"{MANIFEST_TYPE}, {DOCKER_TYPE}"}
    with _registry("GET", repository, old, accepted) as answer:
        kind, manifest = answer.headers["Content-Type"], answer.read()
    with _registry("PUT", repository, tag, {"Content-Type": kind}, manifest) as answer:
        assert answer.status == 201, answer.status
    return f"{REGISTRY}/{repository}:{tag}"


def _registry(method: str, repository: str, tag: str, headers: dict[str, str], data: bytes | None = None) -> Any:
    url = f"http://{REGISTRY}/v2/{repository}/manifests/{tag}"
    return _OPENER.open(
        urllib.request.Request(url, method=method, data=data, headers=headers), timeout=PATIENCE_SECONDS
    )
