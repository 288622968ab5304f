"""The cluster from nothing to ready and back."""

import shutil
import time

from . import control_plane, leftovers, mounts, nodes, processes, registry, volumes
from .binaries import MODULES, ensure_binaries
from .certificates import ensure_certificates
from .cgroups import remove_cgroups
from .failures import ClusterError
from .layout import LAYOUT, NODES
from .network import ensure_network, remove_network
from .packages import ensure_packages
from .progress import say, step

# What `down` keeps: it is costly to make again and belongs to no cluster in particular.
KEPT = ("bin", "image-storage", "registry", "images.json", "models", "logs")


def up(only_api: bool = False) -> None:
    """Start what does not run. What runs as it should is left alone, so a second time takes seconds."""
    started = time.monotonic()
    ensure_packages()
    LAYOUT.state.mkdir(parents=True, exist_ok=True)
    ensure_binaries(MODULES[:2] if only_api else MODULES)
    ensure_certificates()
    ensure_network()
    control_plane.ensure_api_server()
    if not only_api:
        control_plane.ensure_controllers()
        registry.ensure_registry()
        nodes.ensure_nodes()
        control_plane.ensure_proxy()
        volumes.ensure_volumes()
    say(f"the cluster is up ({time.monotonic() - started:.0f} s): export KUBECONFIG={LAYOUT.kubeconfig}")


def down() -> None:
    """End everything and leave nothing but what is costly to make again. Raises ClusterError naming what stayed."""
    with step("ending the cluster"):
        for node in NODES:
            nodes.remove(node)
        control_plane.stop()
        registry.stop()
        for name in processes.names():
            processes.stop(name)
        leftovers.remove_packet_filter_rules()
        leftovers.remove_device_plugins()
        leftovers.remove_runtime_files()
        remove_network()
        mounts.unmount_below(LAYOUT.state)
        mounts.unmount_below(LAYOUT.run)
        remove_cgroups()
        _remove_state()
    left = leftovers.found()
    if left:
        raise ClusterError(
            "the cluster is ended, but this is left of it:\n" + "\n".join(f"    {line}" for line in left)
        )


def purge() -> None:
    """`down`, and everything built and downloaded goes as well."""
    down()
    shutil.rmtree(LAYOUT.state)


def _remove_state() -> None:
    shutil.rmtree(LAYOUT.run, ignore_errors=True)
    for entry in LAYOUT.state.iterdir() if LAYOUT.state.exists() else ():
        if entry.name in KEPT or entry.suffix == ".lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
