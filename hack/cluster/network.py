"""Bridges, forwarding, kernel settings: what pods need to reach each other, and how the machine gets it back."""

import json
import shutil
from pathlib import Path

from .commands import run, succeeds
from .layout import LAYOUT, NODES, PLAYED_NETWORK, POD_NETWORK, Node

# What kube-proxy, kubelet and this file change; `restore_settings` puts back what was there before the first `up`.
SETTINGS = (
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.route_localnet",
    "net.bridge.bridge-nf-call-iptables",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)
ROUTE_OF_PLAYED = ["local", PLAYED_NETWORK, "dev", "lo"]
FORWARDED = [["FORWARD", direction, POD_NETWORK, "-j", "ACCEPT"] for direction in ("-s", "-d")]


def ensure_network() -> None:
    """Bridges with the nodes' addresses, and a way between them whatever the machine's forwarding policy is."""
    _remember_settings()
    _setting("net.ipv4.ip_forward").write_text("1")
    bridged = _setting("net.bridge.bridge-nf-call-iptables")
    if bridged.exists():
        # A pod that reaches a pod of its own bridge through a Service needs its packets translated on the bridge.
        bridged.write_text("1")
    for node in NODES:
        _ensure_bridge(node)
    run(["ip", "route", "replace", *ROUTE_OF_PLAYED])
    for rule in FORWARDED:
        if not succeeds(["iptables", "-w", "-C", *rule]):
            run(["iptables", "-w", "-I", *rule])


def remove_network() -> None:
    for rule in FORWARDED if shutil.which("iptables") else ():
        while succeeds(["iptables", "-w", "-D", *rule]):
            pass
    for node in NODES:
        if Path("/sys/class/net", node.bridge).exists():
            run(["ip", "link", "delete", node.bridge])
    if shutil.which("ip"):
        succeeds(["ip", "route", "delete", *ROUTE_OF_PLAYED])
    _restore_settings()


def _ensure_bridge(node: Node) -> None:
    if not Path("/sys/class/net", node.bridge).exists():
        run(["ip", "link", "add", node.bridge, "type", "bridge"])
    run(["ip", "address", "replace", f"{node.address}/24", "dev", node.bridge])
    run(["ip", "link", "set", node.bridge, "up"])


def _remember_settings() -> None:
    remembered = _remembered()
    if remembered.exists():
        return
    values = {name: _setting(name).read_text().strip() for name in SETTINGS if _setting(name).exists()}
    remembered.parent.mkdir(parents=True, exist_ok=True)
    remembered.write_text(json.dumps(values, indent=2))


def _restore_settings() -> None:
    remembered = _remembered()
    if not remembered.exists():
        return
    for name, value in json.loads(remembered.read_text()).items():
        if _setting(name).read_text().strip() != value:
            _setting(name).write_text(value)
    remembered.unlink()


def _remembered() -> Path:
    return LAYOUT.state / "settings-before.json"


def _setting(name: str) -> Path:
    return Path("/proc/sys", name.replace(".", "/"))
