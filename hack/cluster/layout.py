"""Where everything is: folders, addresses, ports, versions and the two nodes."""

import os
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
KUBERNETES_VERSION = "1.34.4"

POD_NETWORK = "10.244.0.0/16"
# Of pods that no kubelet runs: whoever plays them answers at these addresses of this machine. (Kubernetes takes no
# 127.0.0.0/8 for a pod that a Service leads to; this range is reserved for measurements, RFC 2544.)
PLAYED_NETWORK = "198.18.0.0/15"
# Of ten thousand models side by side, with those that are still being removed.
SERVICE_NETWORK = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
# The API server and DNS listen on the first node's bridge: the host and every pod reach it, nobody else does.
GATEWAY = "10.244.0.1"
API_PORT = 6443
API_URL = f"https://{GATEWAY}:{API_PORT}"
ETCD_URL = "http://127.0.0.1:2379"
REGISTRY = "localhost:5000"
PAUSE_IMAGE = "localhost/pause:1"


@dataclass(frozen=True)
class Node:
    """One real node: a containerd and a kubelet of its own, a bridge and a pod subnet."""

    name: str
    index: int
    instance_type: str
    devices: int = 0
    taints: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return f"10.244.{self.index}.1"

    @property
    def subnet(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def bridge(self) -> str:
        return f"nm-{self.name}"

    @property
    def healthz_port(self) -> int:
        return 10248 + 100 * self.index

    @property
    def cgroup(self) -> str:
        return f"/{CGROUP}/{self.name}"


CGROUP = "neuronmodel-cluster"
DEVICE = "aws.amazon.com/neuron"
# Compiled into the kubelet: every one on a machine uses this folder.
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
NODES = (
    Node(name="plain", index=0, instance_type="m7i.large"),
    # Labelled, tainted and equipped as AWS does it; the devices are a number that scheduler and kubelet count down.
    Node(name="trn2", index=1, instance_type="trn2.48xlarge", devices=16, taints=(f"{DEVICE}=:NoSchedule",)),
)


def node_named(name: str) -> Node:
    return next(node for node in NODES if node.name == name)


def _state_directory() -> Path:
    return Path(os.environ.get("NEURONMODEL_CLUSTER_DIR", "/var/lib/neuronmodel-cluster"))


@dataclass(frozen=True)
class Layout:
    """The folders of the one cluster that a machine has, whichever clone of the project started it."""

    state: Path = field(default_factory=_state_directory)
    # Short, because a Unix socket's path holds 107 bytes.
    run: Path = Path("/run/neuronmodel-cluster")

    @property
    def binaries(self) -> Path:
        return self.state / "bin"

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def processes(self) -> Path:
        return self.state / "processes"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def etcd(self) -> Path:
        return self.state / "etcd"

    @property
    def registry(self) -> Path:
        return self.state / "registry"

    @property
    def volumes(self) -> Path:
        return self.state / "volumes"

    @property
    def models(self) -> Path:
        return self.state / "models"

    @property
    def images(self) -> Path:
        return self.state / "images.json"

    @property
    def image_storage(self) -> Path:
        return self.state / "image-storage"

    def node(self, node: Node) -> Path:
        return self.state / "nodes" / node.name

    def node_run(self, node: Node) -> Path:
        return self.run / node.name

    def containerd_socket(self, node: Node) -> Path:
        return self.node_run(node) / "containerd.sock"


LAYOUT = Layout()
