"""Claims that are waited for without complaint, and what lies outside of namespaces and is removed by a label."""

from typing import Any, Final

from neuronmodel_api import names
from neuronmodel_operator.cluster import client
from neuronmodel_operator.cluster.client import Api, Kind
from neuronmodel_operator.state.plan import ObjectRef
from tests.cluster.operator.played import RUN

STORAGE_CLASS: Final = Kind("storage.k8s.io", "v1", "StorageClass", "storageclasses")
VOLUME: Final = Kind("", "v1", "PersistentVolume", "persistentvolumes")


def source_claim(storage_class: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"metadata": {"name": "models"}, "spec": spec | {"storageClassName": storage_class}}


def storage_class(name: str) -> dict[str, Any]:
    """Whose volumes may grow, and are waited for without complaint."""
    return {
        "metadata": {"name": name, "labels": {RUN: name}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


async def make_volume(api: Api, run: str, storage_class: str, namespace: str, model: str) -> None:
    """One that may grow, bound to the model's templated claim: else the API server itself would refuse."""
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": storage_class,
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": namespace, "name": names.templated_claim(model)},
    }
    meta = {"name": f"{namespace}-{model}", "labels": {RUN: run}}
    await api.create(VOLUME, None, {"metadata": meta, "spec": spec})


async def requested_size(api: Api, namespace: str, model: str) -> str | None:
    """What the model's templated claim asks for."""
    claim = await api.get(client.CLAIM, namespace, names.templated_claim(model)) or {}
    size: str | None = claim.get("spec", {}).get("resources", {}).get("requests", {}).get("storage")
    return size


async def remove(api: Api, run: str, *kinds: Kind) -> None:
    for kind in kinds:
        for o in await api.list(kind, None, labels=f"{RUN}={run}"):
            meta = o["metadata"]
            await api.delete(kind, None, ObjectRef(kind.api_version, kind.kind, meta["name"], meta["uid"]))
