"""What runs, and how a shell gets at it."""

from . import nodes, processes
from .binaries import binary
from .failures import ClusterError
from .layout import API_URL, LAYOUT, NODES, REGISTRY, Node
from .progress import say


def show() -> None:
    """One line a process and a node. Raises ClusterError when something that was started does not run."""
    names = processes.names()
    if not names:
        raise ClusterError("no cluster runs here; `python3 -m hack.cluster up` starts one.")
    dead = [name for name in names if not _show_process(name)]
    for node in NODES:
        say(f"node {node.name}: {'Ready' if _ready(node) else 'not Ready'}, {node.instance_type}, {node.address}")
    say(f"API {API_URL}, registry {REGISTRY}, KUBECONFIG={LAYOUT.kubeconfig}")
    if dead:
        raise ClusterError(f"not running: {', '.join(dead)}; `python3 -m hack.cluster up` starts them again.")


def environment() -> None:
    """For `eval "$(python3 -m hack.cluster env)"`."""
    say(f"export KUBECONFIG={LAYOUT.kubeconfig}")
    say(f'export PATH={binary("kubectl").parent}:"$PATH"')


def _show_process(name: str) -> bool:
    process = processes.recorded(name)
    alive = process is not None and process.alive
    say(f"{name}: {f'running, pid {process.pid}' if process and alive else 'ended'}, log {processes.log_of(name)}")
    return alive


def _ready(node: Node) -> bool:
    try:
        return nodes.is_ready(node)
    except ClusterError:
        return False
