"""The cluster from nothing to ready and back."""

import time

from . import control_plane, nodes, registry
from .binaries import ensure_binaries
from .certificates import ensure_certificates
from .layout import LAYOUT
from .network import ensure_network
from .packages import ensure_packages
from .progress import say


def up(only_api: bool = False) -> None:
    """Start what does not run. What runs as it should is left alone, so a second time takes seconds."""
    started = time.monotonic()
    ensure_packages()
    LAYOUT.state.mkdir(parents=True, exist_ok=True)
    ensure_binaries()
    ensure_certificates()
    ensure_network()
    control_plane.ensure_api_server()
    if not only_api:
        control_plane.ensure_controllers()
        registry.ensure_registry()
        nodes.ensure_nodes()
    say(f"the cluster is up ({time.monotonic() - started:.0f} s): export KUBECONFIG={LAYOUT.kubeconfig}")
