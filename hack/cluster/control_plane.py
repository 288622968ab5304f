"""etcd, API server, controller manager, scheduler, kube-proxy and DNS, as processes of this machine."""

import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence

from . import api, processes
from .binaries import binary
from .certificates import path
from .layout import API_PORT, ETCD_URL, GATEWAY, LAYOUT, NODES, POD_NETWORK, SERVICE_NETWORK
from .progress import step

ISSUER = "https://kubernetes.default.svc.cluster.local"
CLUSTER_DOMAIN = "cluster.local"
# In this order they start; they are ended in the opposite one.
NAMES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns")


def ensure_api_server() -> None:
    LAYOUT.etcd.mkdir(parents=True, exist_ok=True, mode=0o700)
    processes.ensure("etcd", etcd_command(), ready=http_ready("http://127.0.0.1:2379/health"))
    with step("starting the API server"):
        processes.ensure("kube-apiserver", api_server_command(), ready=lambda: api.answers("/readyz"))


def ensure_controllers() -> None:
    with step("starting controllers, scheduler and DNS"):
        processes.ensure("kube-controller-manager", controller_manager_command(), ready=_listens("127.0.0.1", 10257))
        processes.ensure("kube-scheduler", scheduler_command(), ready=_listens("127.0.0.1", 10259))
        processes.ensure("coredns", dns_command(), ready=http_ready(f"http://{GATEWAY}:8181/ready"))


def ensure_proxy() -> None:
    """Runs after the nodes: the proxy waits half a minute for the node that it is configured to be on."""
    with step("starting the service proxy"):
        processes.ensure("kube-proxy", proxy_command(), ready=http_ready("http://127.0.0.1:10256/livez"))


def stop() -> None:
    for name in reversed(NAMES):
        processes.stop(name)


def etcd_command() -> Sequence[str]:
    return [
        str(binary("etcd")),
        "--name=neuronmodel",
        f"--data-dir={LAYOUT.etcd}",
        # Losing the last second in a power cut is fine for a cluster that is recreated in seconds.
        "--unsafe-no-fsync",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--log-level=warn",
    ]


def api_server_command() -> Sequence[str]:
    return [
        str(binary("kube-apiserver")),
        f"--etcd-servers={ETCD_URL}",
        f"--bind-address={GATEWAY}",
        f"--advertise-address={GATEWAY}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={path('server.crt')}",
        f"--tls-private-key-file={path('server.key')}",
        f"--client-ca-file={path('ca.crt')}",
        f"--service-account-key-file={path('sa.pub')}",
        f"--service-account-signing-key-file={path('sa.key')}",
        f"--service-account-issuer={ISSUER}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={path('admin.crt')}",
        f"--kubelet-client-key={path('admin.key')}",
        "--kubelet-preferred-address-types=InternalIP",
        # A lost node's pods are replaced after 20 s instead of 5 min: a test can wait for it.
        "--default-not-ready-toleration-seconds=20",
        "--default-unreachable-toleration-seconds=20",
    ]


def controller_manager_command() -> Sequence[str]:
    return [
        str(binary("kube-controller-manager")),
        f"--kubeconfig={LAYOUT.kubeconfig}",
        "--bind-address=127.0.0.1",
        f"--root-ca-file={path('ca.crt')}",
        f"--service-account-private-key-file={path('sa.key')}",
        "--use-service-account-credentials",
        # A namespace takes some sixty requests to remove, and tests make hundreds; the default is 20 a second.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        # Each waits for its requests one after the other: ten, the default, fall behind where the API server is slow.
        "--concurrent-namespace-syncs=40",
        "--leader-elect=false",
        # For a test to notice a lost node, and not to lose one whose kubelet is slow on a busy machine; the default is
        # 50 s.
        "--node-monitor-grace-period=40s",
        "--node-monitor-period=2s",
    ]


def scheduler_command() -> Sequence[str]:
    return [
        str(binary("kube-scheduler")),
        f"--kubeconfig={LAYOUT.kubeconfig}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
    ]


def proxy_command() -> Sequence[str]:
    """One for both nodes: they share the machine's packet filter."""
    return [
        str(binary("kube-proxy")),
        f"--kubeconfig={LAYOUT.kubeconfig}",
        f"--hostname-override={NODES[0].name}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_NETWORK}",
        "--healthz-bind-address=127.0.0.1:10256",
        "--iptables-localhost-nodeports=false",
        "--iptables-min-sync-period=100ms",
        # Zero leaves the machine's own connection tracking limits alone.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
    ]


def dns_command() -> Sequence[str]:
    config = LAYOUT.state / "Corefile"
    config.write_text(
        f"""{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
    bind {GATEWAY}
    errors
    ready {GATEWAY}:8181
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {LAYOUT.kubeconfig} neuronmodel
        ttl 5
    }}
}}
.:53 {{
    bind {GATEWAY}
    errors
    cache 30
    forward . /etc/resolv.conf
}}
"""
    )
    return [str(binary("coredns")), "-conf", str(config)]


def _listens(host: str, port: int) -> Callable[[], bool]:
    def ready() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((host, port)) == 0

    return ready


def http_ready(url: str) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 (an address of this machine)
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    return ready
