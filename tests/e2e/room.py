"""A namespace for a module's tests, and the folder of its checkpoints."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster import volumes
from hack.cluster.layout import LAYOUT
from neuronmodel_api import names

from . import checkpoints
from .accounting import assert_all_accounted
from .cluster import Cluster, Object
from .neuronmodels import Applied, neuron_model
from .waiting import eventually

GONE_SECONDS = 120.0


@dataclass(frozen=True)
class Room:
    """A namespace that enforces the restricted Pod Security Standard, with a claim `models` on all checkpoints."""

    cluster: Cluster
    namespace: str

    @property
    def models(self) -> Path:
        """On this machine, what the claim `models` holds."""
        return LAYOUT.models

    @property
    def folder(self) -> Path:
        """On this machine, the checkpoints of this room alone."""
        return LAYOUT.models / self.namespace

    def path(self, name: str) -> str:
        """A checkpoint of this room as a path on the claim."""
        return f"{self.namespace}/{name}"

    def tiny(self, name: str, **options: Any) -> str:
        """Write a tiny checkpoint; its path on the claim."""
        checkpoints.write_tiny(self.folder / name, **options)
        return self.path(name)

    def claim_volume(self, name: str, volume: str, *, mode: str = "ReadWriteOnce") -> Path:
        """Make a claim on one of the cluster's volumes; its folder on this machine."""
        found = next(each for each in volumes.all_volumes() if each.name == volume)
        wanted = claim(name, self.namespace, storage_class=found.storage_class, size="1Gi", mode=mode)
        wanted["spec"]["volumeName"] = volume
        self.cluster.apply(wanted)
        return found.folder

    def apply(self, manifest: Object) -> tuple[Applied, float]:
        """With kubectl, as users do; and when, for a stopwatch."""
        since = time.monotonic()
        self.cluster.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}})
        return Applied(self.cluster, self.namespace, manifest["metadata"]["name"]), since

    def neuron_model(self, name: str, path: str, **options: Any) -> tuple[Applied, float]:
        return self.apply(neuron_model(name, path, **options))

    def applied(self) -> list[Applied]:
        found = self.cluster.find(names.KIND, self.namespace)
        return [Applied(self.cluster, self.namespace, item["metadata"]["name"]) for item in found]

    @contextmanager
    def entered(self) -> Iterator["Room"]:
        """Made anew; at the end every start that went well is held to its arithmetic, and everything is asked to go."""
        self._make()
        try:
            yield self
            for model in self.applied():
                assert_all_accounted(model.status.starts)
        finally:
            self.cluster.delete("Namespace", self.namespace)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _make(self) -> None:
        """What an interrupted run left is cleared first."""
        self.cluster.delete("Namespace", self.namespace)
        await_gone(self.cluster, self.namespace)
        volumes.recycle()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": restricted}},
            claim("models", self.namespace, storage_class="models", size="1Gi", mode="ReadOnlyMany"),
        )


def await_gone(cluster: Cluster, namespace: str) -> None:
    """With its NeuronModels: their finalizers must not hold it."""
    eventually(
        lambda: cluster.get("Namespace", namespace) is None,
        seconds=GONE_SECONDS,
        what=f"namespace {namespace} to go",
        instead=lambda: cluster.kubectl("get", "all,nm,pvc", f"--namespace={namespace}"),
    )


def claim(name: str, namespace: str, *, storage_class: str, size: str, mode: str = "ReadWriteOnce") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "storageClassName": storage_class,
            "accessModes": [mode],
            "resources": {"requests": {"storage": size}},
        },
    }
