"""The cluster as the tests see it: objects as plain dicts, and kubectl as a user calls it."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubernetes import config, dynamic
from kubernetes.dynamic.exceptions import NotFoundError

from hack.cluster.binaries import binary
from neuronmodel_api import names
from tests.waiting import PATIENCE_SECONDS

Object = dict[str, Any]

API_VERSIONS = {
    names.KIND: names.API_VERSION,
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Event": "v1",
    "Job": "batch/v1",
    "Lease": "coordination.k8s.io/v1",
    "Namespace": "v1",
    "Node": "v1",
    "PersistentVolume": "v1",
    "PersistentVolumeClaim": "v1",
    "Pod": "v1",
    "ResourceQuota": "v1",
    "Secret": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "TokenReview": "authentication.k8s.io/v1",
}


class KubectlError(Exception):
    """kubectl ended with an error; the message is its output."""


class Cluster:
    """One connection to the API server. The client is for looking often, kubectl for what users do themselves."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._client = dynamic.DynamicClient(config.new_client_from_config(config_file=str(kubeconfig)))

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        try:
            found: Object = self._resource(kind).get(name=name, namespace=namespace).to_dict()
        except NotFoundError:
            return None
        return found

    def find(self, kind: str, namespace: str | None = None, *, labels: str = "") -> list[Object]:
        found = self._resource(kind).get(namespace=namespace, label_selector=labels).to_dict()
        items: list[Object] = found["items"]
        return items

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        self.kubectl(
            "apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        )

    def patch(self, kind: str, name: str, namespace: str | None, change: Mapping[str, Any]) -> Object:
        """A merge patch: None removes a field."""
        patched: Object = (
            self._resource(kind)
            .patch(name=name, namespace=namespace, body=change, content_type="application/merge-patch+json")
            .to_dict()
        )
        return patched

    def delete(self, kind: str, name: str, namespace: str | None = None, *, grace_seconds: int | None = None) -> None:
        """Ask for it, without waiting until it is gone. That there is none is no error."""
        body = None if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            self._resource(kind).delete(name=name, namespace=namespace, body=body)
        except NotFoundError:
            return

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = PATIENCE_SECONDS) -> str:
        """What kubectl prints. Raises KubectlError."""
        command = [str(binary("kubectl")), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
        if done.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def execute(self, namespace: str, pod: str, command: str) -> str:
        """What a shell command prints in the pod, both streams, whether or not it succeeds there."""
        return self.kubectl("exec", f"--namespace={namespace}", pod, "--", "sh", "-c", f"({command}) 2>&1 || true")

    def _resource(self, kind: str) -> Any:
        return self._client.resources.get(api_version=API_VERSIONS[kind], kind=kind)
