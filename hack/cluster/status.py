"""What runs, and how a shell gets at it."""

from . import nodes, processes
from .binaries import binary
from .failures import ClusterError
from .layout import API_URL, LAYOUT, NODES, REGISTRY, Node
from .progress import say


def require_all() -> None:
    """Raises ClusterError when nothing was started, or something that was does not run."""
    names = processes.names()
    if not names:
        raise ClusterError("no cluster runs here; `python3 -m hack.cluster up` starts one.")
    dead = [name for name in names if not _runs(name)]
    if dead:
        raise ClusterError(f"not running: {', '.join(dead)}; `python3 -m hack.cluster up` starts them again.")


def show() -> None:
    """One line a process and a node."""
    for name in processes.names():
        say(f"{name}: {'running' if _runs(name) else 'ended'}, log {processes.log_of(name)}")
    for node in NODES:
        say(f"node {node.name}: {'Ready' if _ready(node) else 'not Ready'}, {node.instance_type}, {node.address}")
    say(f"API {API_URL}, registry {REGISTRY}, KUBECONFIG={LAYOUT.kubeconfig}")


def environment() -> None:
    """For `eval "$(python3 -m hack.cluster env)"`."""
    say(f"export KUBECONFIG={LAYOUT.kubeconfig}")
    say(f'export PATH={binary("kubectl").parent}:"$PATH"')


def _runs(name: str) -> bool:
    process = processes.recorded(name)
    return process is not None and process.alive


def _ready(node: Node) -> bool:
    try:
        return nodes.is_ready(node)
    except ClusterError:
        return False
