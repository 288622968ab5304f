"""What a cluster leaves behind on a machine: removed here, and looked for afterwards."""

import errno
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from . import cgroups, mounts
from .commands import run
from .layout import CGROUP, DEVICE_PLUGINS, LAYOUT, NODES, POD_NETWORK

# kubelet and kube-proxy name all their chains like this; the chain policies and everybody else's rules stay.
CHAIN_PREFIX = "KUBE-"
SHIM_SOCKETS = Path("/run/containerd/s")
NETWORK_NOTES = Path("/var/lib/cni/results")
TABLES = ("filter", "nat", "mangle", "raw")


def remove_packet_filter_rules() -> None:
    for family in _packet_filters():
        for table in TABLES:
            restore = removal(table, run([f"{family}-save", "-t", table]))
            if restore:
                run([f"{family}-restore", "--wait", "--noflush"], stdin=restore)


def remove_device_plugins() -> None:
    shutil.rmtree(DEVICE_PLUGINS, ignore_errors=True)
    if DEVICE_PLUGINS.parent.exists() and not any(DEVICE_PLUGINS.parent.iterdir()):
        DEVICE_PLUGINS.parent.rmdir()


def remove_runtime_files() -> None:
    """Dead shims' sockets and the network plugins' notes, at paths compiled into containerd."""
    for path in SHIM_SOCKETS.iterdir() if SHIM_SOCKETS.exists() else ():
        if _is_dead(path):
            path.unlink()
    for node in NODES:
        prefix = f"neuronmodel-{node.name}-"
        for note in NETWORK_NOTES.glob(f"{prefix}*-eth0"):
            sandbox = note.name.removeprefix(prefix).removesuffix("-eth0")
            (NETWORK_NOTES / f"cni-loopback-{sandbox}-lo").unlink(missing_ok=True)
            note.unlink()
    for folder in (SHIM_SOCKETS, SHIM_SOCKETS.parent, NETWORK_NOTES, NETWORK_NOTES.parent):
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()


def found() -> list[str]:
    """Everything of the cluster that is still on this machine, except its folder."""
    return [*_processes(), *_mounts(), *_links(), *_rules(), *_cgroups()]


def removal(table: str, saved: str) -> str:
    """Input for iptables-restore that takes out our chains and the rules in other chains that lead to them."""
    lines = saved.splitlines()
    chains = [line[1:].split()[0] for line in lines if line.startswith(f":{CHAIN_PREFIX}")]
    if not chains:
        return ""
    jumps = [line for line in lines if line.startswith("-A ") and not line.startswith(f"-A {CHAIN_PREFIX}")]
    removed = [line.replace("-A ", "-D ", 1) for line in jumps if f" -j {CHAIN_PREFIX}" in line]
    flushed = [f":{chain} - [0:0]" for chain in chains]
    return "\n".join([f"*{table}", *flushed, *removed, *(f"-X {chain}" for chain in chains), "COMMIT", ""])


def _packet_filters() -> list[str]:
    """None on a machine where no cluster ever ran."""
    return [family for family in ("iptables", "ip6tables") if shutil.which(f"{family}-save")]


def _is_dead(path: Path) -> bool:
    """Whether nobody listens: another containerd of this machine keeps its sockets here too."""
    with socket.socket(socket.AF_UNIX) as probe:
        return path.is_socket() and probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _processes() -> Iterator[str]:
    """Finds them by the folders in their command lines: only ours have them as an argument."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if words[0].startswith(str(LAYOUT.binaries)) or any(word.startswith(str(LAYOUT.run)) for word in words):
            yield f"process {folder.name}: {' '.join(words)[:120]}"


def _mounts() -> Iterator[str]:
    for place in (LAYOUT.state, LAYOUT.run):
        yield from (f"mount {point}" for point in mounts.below(place))


def _links() -> Iterator[str]:
    yield from (f"bridge {node.bridge}" for node in NODES if Path("/sys/class/net", node.bridge).exists())


def _rules() -> Iterator[str]:
    for family in _packet_filters():
        for line in run([f"{family}-save"]).splitlines():
            if CHAIN_PREFIX in line or POD_NETWORK in line:
                yield f"{family} rule {line}"


def _cgroups() -> Iterator[str]:
    groups = (hierarchy / CGROUP for hierarchy in cgroups.hierarchies())
    yield from (f"cgroup {group}" for group in groups if group.exists())
