"""The two nodes and their volumes do not get in each other's way."""

import os
from pathlib import Path

import pytest

from hack.cluster import api, volumes
from hack.cluster.layout import LAYOUT, NODES, Layout
from hack.cluster.mounts import unescaped
from hack.cluster.nodes import kubelet_config

LONGEST_SOCKET_PATH = 107


def test_sockets_fit_the_kernels_limit() -> None:
    # containerd puts its ttrpc socket next to the other one.
    sockets = [f"{LAYOUT.containerd_socket(node)}.ttrpc" for node in NODES]
    assert [path for path in sockets if len(path) > LONGEST_SOCKET_PATH] == []


def test_nodes_share_no_address_port_folder_or_cgroup() -> None:
    configurations = [kubelet_config(node) for node in NODES]
    for key in ("address", "healthzPort", "cgroupRoot", "containerRuntimeEndpoint", "podLogsDir", "volumePluginDir"):
        assert len({configuration[key] for configuration in configurations}) == len(NODES), key


def test_only_the_node_with_devices_is_tainted() -> None:
    taints = {node.name: kubelet_config(node)["registerWithTaints"] for node in NODES}
    assert taints == {"plain": [], "trn2": [{"key": "aws.amazon.com/neuron", "effect": "NoSchedule"}]}


def test_volumes_have_names_of_their_own_and_only_models_share_a_folder() -> None:
    everything = volumes.all_volumes()
    assert len({volume.name for volume in everything}) == len(everything)
    own = [volume.folder for volume in everything if volume.storage_class != volumes.MODELS_CLASS]
    assert len(set(own)) == len(own)
    assert LAYOUT.models not in own


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the folder back to root")
def test_cleaning_a_volume_empties_it_and_leaves_the_models(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_text("1")
    (tmp_path / "link").symlink_to("nowhere")
    models = volumes.Volume("m", volumes.MODELS_CLASS, tmp_path, "1Gi", ("plain",))
    volumes.clean(models)
    assert (tmp_path / "a/b/file").exists()
    volumes.clean(volumes.Volume("v", volumes.DEFAULT_CLASS, tmp_path, "1Gi", ("plain",)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the folder back to root")
def test_a_volume_is_made_claimable_once_its_claim_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while its phase says Bound: the controller tells of it later. Whose claim is there is left alone."""
    monkeypatch.setattr(volumes, "LAYOUT", Layout(state=tmp_path))
    kept, lost, free = (volume for volume in volumes.all_volumes() if volume.name in ("named-0", "named-1", "named-2"))
    for volume in (kept, lost, free):
        volume.folder.mkdir(parents=True)
        (volume.folder / "file").write_text("1")
    claims = {kept.name: "uid-1", lost.name: "uid-2", "of somebody else": "uid-3", free.name: None}
    there = {
        "persistentvolumes": [
            {
                "metadata": {"name": name},
                "spec": {"claimRef": {"uid": uid}} if uid else {},
                "status": {"phase": "Bound"},
            }
            for name, uid in claims.items()
        ],
        "persistentvolumeclaims": [{"metadata": {"uid": "uid-1"}}],
    }
    patched: list[str] = []
    monkeypatch.setattr(api, "get", lambda kind, *_: {"items": there[kind]})
    monkeypatch.setattr(api, "patch", lambda kind, name, operations: patched.append(name))
    assert volumes.recycle() == patched == [lost.name]
    assert [(volume.folder / "file").exists() for volume in (kept, lost, free)] == [True, False, True]


def test_mount_points_with_spaces_are_read_as_they_are() -> None:
    assert unescaped("/srv/two\\040words\\134end") == "/srv/two words\\end"
