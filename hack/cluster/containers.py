"""A node's containerd, its shims and its network configuration."""

import json
import shutil
import signal
from pathlib import Path

from . import processes
from .commands import succeeds
from .failures import CannotRunHereError
from .layout import LAYOUT, Node

PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


def ensure_containerd(node: Node) -> None:
    home = LAYOUT.node(node)
    (home / "cni").mkdir(parents=True, exist_ok=True)
    LAYOUT.node_run(node).mkdir(parents=True, exist_ok=True)
    (home / "cni/10-bridge.conflist").write_text(json.dumps(_network(node), indent=2))
    config = home / "containerd.toml"
    config.write_text(_config(node))
    socket = LAYOUT.containerd_socket(node)
    processes.ensure(
        f"containerd-{node.name}",
        ["containerd", f"--config={config}"],
        ready=lambda: succeeds(["ctr", "--address", str(socket), "version"]),
    )


def alive(node: Node) -> bool:
    """Whether containerd or a container of the node runs."""
    recorded = processes.recorded(f"containerd-{node.name}")
    return bool(recorded and recorded.alive) or bool(shims(node))


def kill(node: Node) -> None:
    processes.stop(f"containerd-{node.name}", how=signal.SIGKILL)
    processes.end(shims(node), how=signal.SIGKILL)


def shims(node: Node) -> list[int]:
    """The processes that hold the node's containers, recognised by the socket in their command line."""
    socket = str(LAYOUT.containerd_socket(node)).encode()
    found = []
    for folder in Path("/proc").iterdir():
        words = _command_line(folder) if folder.name.isdigit() else []
        if words and words[0].endswith(b"containerd-shim-runc-v2") and socket in words:
            found.append(int(folder.name))
    return found


def _command_line(process: Path) -> list[bytes]:
    try:
        return (process / "cmdline").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile
        return []


def _network(node: Node) -> dict[str, object]:
    return {
        "cniVersion": "0.4.0",
        "name": f"neuronmodel-{node.name}",
        "plugins": [
            {
                "type": "bridge",
                "bridge": node.bridge,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.subnet}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    # Next to the sockets: addresses are free again when the node was switched off.
                    "dataDir": str(LAYOUT.node_run(node) / "addresses"),
                },
            }
        ],
    }


def _config(node: Node) -> str:
    home, volatile = LAYOUT.node(node), LAYOUT.node_run(node)
    return f"""version = 2
root = "{home}/containerd"
state = "{volatile}/containerd"
[grpc]
address = "{LAYOUT.containerd_socket(node)}"
[plugins."io.containerd.internal.v1.opt"]
path = "{home}/opt"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
sandbox_image = "localhost/pause:1"
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{_plugin_folder()}"
conf_dir = "{home}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{volatile}/runc"
"""


def _plugin_folder() -> Path:
    for folder in PLUGIN_FOLDERS:
        if shutil.which("bridge", path=str(folder)):
            return folder
    folders = ", ".join(map(str, PLUGIN_FOLDERS))
    raise CannotRunHereError(f"the CNI plugins are not installed: no `bridge` in {folders}.")
