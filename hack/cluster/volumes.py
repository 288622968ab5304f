"""Storage: local volumes on each node, small ones that run full, and the models, as PersistentVolumes.

The kubelet applies fsGroup to `local` volumes; the controller manager's own host-path provisioner does not.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import api
from .commands import run
from .layout import LAYOUT, NODES, Node

PROVISIONER = "kubernetes.io/no-provisioner"
DEFAULT_CLASS, SMALL_CLASS, MODELS_CLASS = "local", "local-small", "models"
NAMED_CLASS, NAMED_SMALL_CLASS, SHARED_CLASS = "named", "named-small", "shared"
CLASSES_BY_NAME = (NAMED_CLASS, NAMED_SMALL_CLASS, SHARED_CLASS)
"""Classes of volumes for claims that name theirs, so that no claim that takes whatever is free takes them first."""
VOLUMES_A_NODE = 32
SMALL_VOLUMES_A_NODE = 2
SMALL_MEBIBYTES = 64
NAMED_VOLUMES = 4
NAMED_SMALL_VOLUMES = 1
SHARED_VOLUMES = 2
MODEL_VOLUMES = 12


@dataclass(frozen=True)
class Volume:
    """One PersistentVolume: a folder of this machine that pods on `nodes` can claim."""

    name: str
    storage_class: str
    folder: Path
    capacity: str
    nodes: tuple[str, ...]
    access_modes: tuple[str, ...] = ("ReadWriteOnce",)

    @property
    def by_name(self) -> bool:
        """Whether claims have to name it."""
        return self.storage_class in CLASSES_BY_NAME

    def manifest(self) -> dict[str, Any]:
        hosts = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(self.nodes)}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": self.name},
            "spec": {
                "storageClassName": self.storage_class,
                "capacity": {"storage": self.capacity},
                "accessModes": list(self.access_modes),
                "persistentVolumeReclaimPolicy": "Retain",
                "local": {"path": str(self.folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hosts]}]}},
            },
        }


def all_volumes() -> list[Volume]:
    return [*_local_volumes(), *_small_volumes(), *_named_volumes(), *_shared_volumes(), *_model_volumes()]


def ensure_volumes() -> None:
    for volume in all_volumes():
        volume.folder.mkdir(parents=True, exist_ok=True)
    for volume in _small_volumes():
        _mount_small(volume.folder)
    classes = (DEFAULT_CLASS, SMALL_CLASS, *CLASSES_BY_NAME, MODELS_CLASS)
    api.apply(*(_storage_class(name) for name in classes))
    api.apply(*(volume.manifest() for volume in all_volumes()))
    recycle()


def recycle() -> list[str]:
    """Make volumes whose claim is gone claimable again: the folder empty, the reference to the claim removed.

    A local volume is never deleted by Kubernetes, it stays for somebody to do this. Its phase is not asked, which tells
    of the claim's end some time later.
    """
    known = {volume.name: volume for volume in all_volumes()}
    with _alone():
        bound = {
            item["metadata"]["name"]: uid
            for item in api.get("persistentvolumes")["items"]
            if (uid := item["spec"].get("claimRef", {}).get("uid")) and item["metadata"]["name"] in known
        }
        claims = {item["metadata"]["uid"] for item in api.get("persistentvolumeclaims", "--all-namespaces")["items"]}
        lost = {name: uid for name, uid in bound.items() if uid not in claims}
        for name, uid in lost.items():
            clean(known[name])
            same = {"op": "test", "path": "/spec/claimRef/uid", "value": uid}
            api.patch("persistentvolume", name, [same, {"op": "remove", "path": "/spec/claimRef"}])
    return list(lost)


@contextmanager
def _alone() -> Iterator[None]:
    """Whoever came second would empty what has a new owner by then."""
    folder = os.open(LAYOUT.volumes, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _local_volumes() -> list[Volume]:
    return [
        Volume(
            f"local-{node.name}-{number}", DEFAULT_CLASS, LAYOUT.volumes / f"{node.name}-{number}", "8Gi", (node.name,)
        )
        for node in NODES
        for number in range(VOLUMES_A_NODE)
    ]


def _small_volumes() -> list[Volume]:
    """Each a file system of its own; the last ones for claims that name them."""
    by_chance = [
        _small(f"small-{node.name}-{number}", SMALL_CLASS, node)
        for node in NODES
        for number in range(SMALL_VOLUMES_A_NODE)
    ]
    by_name = [_small(f"named-small-{number}", NAMED_SMALL_CLASS, NODES[0]) for number in range(NAMED_SMALL_VOLUMES)]
    return [*by_chance, *by_name]


def _small(name: str, storage_class: str, node: Node) -> Volume:
    return Volume(name, storage_class, LAYOUT.volumes / name, f"{SMALL_MEBIBYTES}Mi", (node.name,))


def _named_volumes() -> list[Volume]:
    """For claims that name their volume: no other claim gets one of them by chance."""
    node = NODES[0].name
    return [
        Volume(f"named-{number}", NAMED_CLASS, LAYOUT.volumes / f"named-{number}", "8Gi", (node,))
        for number in range(NAMED_VOLUMES)
    ]


def _shared_volumes() -> list[Volume]:
    """That pods on every node can write, as a network file system: all nodes are this machine."""
    nodes = tuple(node.name for node in NODES)
    return [
        Volume(f"shared-{number}", SHARED_CLASS, LAYOUT.volumes / f"shared-{number}", "8Gi", nodes, ("ReadWriteMany",))
        for number in range(SHARED_VOLUMES)
    ]


def _model_volumes() -> list[Volume]:
    """All of them are the one folder of models: both nodes are this machine, so both can read it."""
    nodes = tuple(node.name for node in NODES)
    modes = ("ReadOnlyMany", "ReadWriteOnce", "ReadWriteMany")
    return [
        Volume(f"models-{number}", MODELS_CLASS, LAYOUT.models, "8Gi", nodes, modes) for number in range(MODEL_VOLUMES)
    ]


def _storage_class(name: str) -> dict[str, Any]:
    is_default = str(name == DEFAULT_CLASS).lower()
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": is_default}},
        "provisioner": PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _mount_small(folder: Path) -> None:
    if not folder.is_mount():
        run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_MEBIBYTES}m,mode=0755", "neuronmodel-small", folder])


def clean(volume: Volume) -> None:
    """Models are shared and stay; in every other folder nothing is left of the claim, its owner included."""
    if volume.storage_class == MODELS_CLASS:
        return
    for entry in volume.folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    shutil.chown(volume.folder, 0, 0)
    volume.folder.chmod(0o755)
