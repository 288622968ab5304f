"""The two nodes and their volumes do not get in each other's way."""

import os
from pathlib import Path

import pytest

from hack.cluster import volumes
from hack.cluster.layout import LAYOUT, NODES
from hack.cluster.mounts import unescaped
from hack.cluster.nodes import kubelet_config

LONGEST_SOCKET_PATH = 107


def test_sockets_fit_the_kernels_limit() -> None:
    # containerd puts its ttrpc socket beside the other one.
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


def test_mount_points_with_spaces_are_read_as_they_are() -> None:
    assert unescaped("/srv/two\\040words\\134end") == "/srv/two words\\end"
