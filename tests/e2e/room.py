"""A namespace for a module's tests, and the folder of its checkpoints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster import volumes
from hack.cluster.layout import LAYOUT
from neuronmodel_api import names

from . import checkpoints
from .accounting import Asked, asking, assert_all_accounted
from .cluster import Cluster, Object
from .neuronmodels import Applied, neuron_model
from .waiting import eventually


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
        """Bind a claim to one of the cluster's volumes that nobody gets by chance; its folder on this machine."""
        found = next(each for each in volumes.all_volumes() if each.name == volume)
        assert found.by_name, f"any claim of class {found.storage_class} may have taken {volume} before"
        eventually(lambda: self._is_free(volume), what=f"{volume} to be free", instead=lambda: self._describe(volume))
        wanted = claim(name, self.namespace, storage_class=found.storage_class, size=found.capacity, mode=mode)
        wanted["spec"]["volumeName"] = volume
        self.cluster.apply(wanted)
        eventually(lambda: self._is_bound(name), what=f"{name} to be bound", instead=lambda: self._describe(volume))
        return found.folder

    def _is_free(self, volume: str) -> bool:
        """Unless the claim of an earlier test still has it, which is about to go."""
        volumes.recycle()
        found = self.cluster.get("PersistentVolume", volume)
        return found is not None and "claimRef" not in found["spec"]

    def _is_bound(self, name: str) -> bool:
        found = self.cluster.get("PersistentVolumeClaim", name, self.namespace)
        return found is not None and found["status"].get("phase") == "Bound"

    def _describe(self, volume: str) -> str:
        return self.cluster.kubectl("get", f"persistentvolume/{volume}", "--output=yaml")

    def apply(self, manifest: Object) -> tuple[Applied, Asked]:
        """With kubectl, as users do; and when, for a stopwatch."""
        with asking() as asked:
            self.cluster.apply({**manifest, "metadata": {**manifest["metadata"], "namespace": self.namespace}})
        return Applied(self.cluster, self.namespace, manifest["metadata"]["name"]), asked

    def neuron_model(self, name: str, path: str, **options: Any) -> tuple[Applied, Asked]:
        return self.apply(neuron_model(name, path, **options))

    def applied(self) -> list[Applied]:
        found = self.cluster.find(names.KIND, self.namespace)
        return [Applied(self.cluster, self.namespace, item["metadata"]["name"]) for item in found]

    @contextmanager
    def entered(self) -> Iterator["Room"]:
        """Creates it; at the end the phases of every start that succeeded must add up, and everything is deleted."""
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
        wait_for_deletion(self.cluster, self.namespace)
        volumes.recycle()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": restricted}},
            claim("models", self.namespace, storage_class="models", size="1Gi", mode="ReadOnlyMany"),
        )


def wait_for_deletion(cluster: Cluster, namespace: str) -> None:
    """With its NeuronModels: their finalizers must not hold it."""
    eventually(
        lambda: cluster.get("Namespace", namespace) is None,
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
