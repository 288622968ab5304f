"""Deaths without warning: SIGKILL to what runs in a pod, and the loss of a whole node."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hack.cluster.layout import PROJECT
from tests.waiting import PATIENCE_SECONDS

from .cluster import Object


def processes_of(pod: Object, program: str) -> list[int]:
    """Those of a pod's container whose command line holds `program`: its cgroup's path holds the pod's UID."""
    uid = pod["metadata"]["uid"]
    spelled = (uid, uid.replace("-", "_"))
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            groups, command = (folder / "cgroup").read_text(), (folder / "cmdline").read_bytes().decode()
        except OSError:  # it ended meanwhile
            continue
        if any(spelling in groups for spelling in spelled) and program in command:
            found.append(int(folder.name))
    return found


def send(pod: Object, program: str, number: signal.Signals) -> int:
    """How many processes got the signal."""
    pids = processes_of(pod, program)
    signal_all(pids, number)
    return len(pids)


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Those of them that have not ended meanwhile."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def workers_of(pods: Iterable[Object]) -> list[int]:
    """The processes of workers in them."""
    return [pid for pod in pods for pid in processes_of(pod, "neuronmodel")]


def kill(pods: Iterable[Object]) -> int:
    """How many workers in them got SIGKILL."""
    pids = workers_of(pods)
    signal_all(pids, signal.SIGKILL)
    return len(pids)


@contextmanager
def lost_node(name: str) -> Iterator[None]:
    """Its kubelet, containerd and every process of its pods are gone; it comes back at the end."""
    try:
        _cluster("node-stop", name)
        yield
    finally:
        _cluster("node-start", name)


def _cluster(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "hack.cluster", *arguments], cwd=PROJECT, check=True, timeout=PATIENCE_SECONDS
    )
