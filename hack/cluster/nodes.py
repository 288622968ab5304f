"""Two real nodes: a containerd and a kubelet each, with folders, sockets, cgroups and a bridge of their own."""

import json
import shutil
import signal
from pathlib import Path

from . import api, cgroups, containers, mounts, pause, processes
from .binaries import binary
from .certificates import path
from .commands import run
from .control_plane import CLUSTER_DOMAIN, http_ready
from .failures import ClusterError
from .layout import DEVICE, DEVICE_PLUGINS, GATEWAY, LAYOUT, NODES, PAUSE_IMAGE, Node
from .progress import step
from .waiting import wait_until

READY_SECONDS = 300.0
EMPTY_SECONDS = 60.0
KUBELET_PORT = 10250
# Compiled into the kubelet, like DEVICE_PLUGINS: both kubelets share it.
CONTAINER_LOG_LINKS = Path("/var/log/containers")


def ensure_nodes() -> None:
    for node in NODES:
        start(node)


def start(node: Node) -> None:
    """Have the node run, Ready and with its devices; a lost one comes back like a machine that is switched on."""
    with step(f"starting node {node.name}"):
        cgroups.ensure_cgroups()
        if not containers.alive(node):
            clear_volatile(node)
        containers.ensure_containerd(node)
        _ensure_pause_image(node)
        _ensure_kubelet(node)
        wait_until(lambda: _is_registered(node), seconds=READY_SECONDS, what=f"node {node.name} is not registered")
        if node.devices:
            _give_devices(node)
        not_ready = f"node {node.name} is not Ready, see {kubelet_log(node)}"
        wait_until(lambda: is_ready(node), seconds=READY_SECONDS, what=not_ready)


def lose(node: Node) -> None:
    """What a power cut does: kubelet, containers and their volatile state are gone at once, disks stay."""
    processes.stop(f"kubelet-{node.name}", how=signal.SIGKILL)
    containers.kill(node)
    _end_pods(node)
    clear_volatile(node)
    wait_until(lambda: _end_pods(node), seconds=EMPTY_SECONDS, what=f"processes of node {node.name} do not end")


def _end_pods(node: Node) -> bool:
    """Whether none of its processes is left. A runtime that is killed may have started one just before, so they are
    looked for again each time."""
    processes.end(cgroups.processes_of(node), how=signal.SIGKILL)
    return cgroups.empty(node)


def remove(node: Node) -> None:
    """Nothing of the node is left on this machine."""
    lose(node)
    shutil.rmtree(LAYOUT.node(node), ignore_errors=True)
    for link in CONTAINER_LOG_LINKS.glob("*.log"):
        if link.is_symlink() and LAYOUT.node(node) in link.readlink().parents:
            link.unlink()
    _remove_if_empty(CONTAINER_LOG_LINKS)


def clear_volatile(node: Node) -> None:
    """Mounts, network namespaces and sockets: everything that would not survive a reboot."""
    mounts.unmount_below(LAYOUT.node_run(node))
    mounts.unmount_below(LAYOUT.node(node))
    shutil.rmtree(LAYOUT.node_run(node), ignore_errors=True)


def is_ready(node: Node) -> bool:
    conditions = api.get("node", node.name)["status"].get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def kubelet_log(node: Node) -> Path:
    return processes.log_of(f"kubelet-{node.name}")


def kubelet_config(node: Node) -> dict[str, object]:
    home = LAYOUT.node(node)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        "port": KUBELET_PORT,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": node.healthz_port,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(path("ca.crt"))},
        },
        "authorization": {"mode": "Webhook"},
        "registerWithTaints": [_taint(text) for text in node.taints],
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "containerRuntimeEndpoint": f"unix://{LAYOUT.containerd_socket(node)}",
        "clusterDNS": [GATEWAY],
        "clusterDomain": CLUSTER_DOMAIN,
        # A negative score needs a right that containers and sandboxes, where this may run, do not have.
        "oomScoreAdj": 0,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        # Twice as often as by default, so that a lost node is noticed twice as fast.
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 20,
        "serializeImagePulls": False,
        # A developer's disk may be nearly full; images stay, the cluster's own folder is removed as a whole.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "500Mi", "imagefs.available": "500Mi"},
        "imageGCHighThresholdPercent": 100,
        # Shared by default: two kubelets would delete each other's files.
        "podLogsDir": str(home / "pod-logs"),
        "volumePluginDir": str(home / "volume-plugins"),
    }


def _taint(text: str) -> dict[str, str]:
    key, _, effect = text.partition("=:")
    return {"key": key, "effect": effect}


def _ensure_kubelet(node: Node) -> None:
    home = LAYOUT.node(node)
    config = home / "kubelet.json"
    config.write_text(json.dumps(kubelet_config(node), indent=2))
    _keep_devices_across_restarts()
    processes.ensure(
        f"kubelet-{node.name}",
        [
            str(binary("kubelet")),
            f"--kubeconfig={path(f'{node.name}.kubeconfig')}",
            f"--config={config}",
            f"--root-dir={home / 'kubelet'}",
            f"--cert-dir={home / 'pki'}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--node-labels=node.kubernetes.io/instance-type={node.instance_type},topology.kubernetes.io/zone=local",
        ],
        ready=http_ready(f"http://127.0.0.1:{node.healthz_port}/healthz"),
    )


def _keep_devices_across_restarts() -> None:
    """A kubelet without a device plugin's checkpoint takes its node for a new one and sets devices that it does not
    know to zero, which would refuse its running pods (kubelet's ShouldResetExtendedResourceCapacity)."""
    checkpoint = DEVICE_PLUGINS / "kubelet_internal_checkpoint"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        checkpoint.write_text("{}")


def _give_devices(node: Node) -> None:
    key = DEVICE.replace("/", "~1")
    api.patch(
        "node",
        node.name,
        [
            {"op": "add", "path": f"/status/{kind}/{key}", "value": str(node.devices)}
            for kind in ("capacity", "allocatable")
        ],
        subresource="status",
    )


def _is_registered(node: Node) -> bool:
    try:
        return "capacity" in api.get("node", node.name)["status"]
    except ClusterError:
        return False


def _ensure_pause_image(node: Node) -> None:
    ctr = ["ctr", "--address", str(LAYOUT.containerd_socket(node)), "--namespace=k8s.io", "images"]
    if PAUSE_IMAGE in run([*ctr, "list", "--quiet"]).split():
        return
    archive = LAYOUT.node(node) / "pause.tar"
    pause.write_archive(binary("pause"), archive)
    run([*ctr, "import", archive])
    archive.unlink()


def _remove_if_empty(folder: Path) -> None:
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
