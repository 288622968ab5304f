"""TCP ports of this machine for servers that tests start a moment later.

A port that the kernel gives and gets back belongs to whoever asks next: another test, or any connection that is opened
before the server listens. So ports are taken from below those that the kernel gives by itself, and every process that
asks has some of them for itself while it lives, whichever run of tests it belongs to.
"""

import fcntl
import itertools
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LOWEST, HIGHEST = 12_000, 29_999
"""Apart from the ports of Kubernetes' own processes and its node ports."""
LOWEST_OF_KERNEL = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
SHARES = 60
_held: list[int] = []
"""Open files, whose locks end with the process."""


def free_port() -> int:
    """That nobody has now, on any address."""
    return next(port for port in _own(os.getpid()) if _is_free(port))


@cache
def _own(process: int) -> Iterator[int]:
    """By process: one that is forked has its parent's memory."""
    share = next((number for number in range(SHARES) if _is_mine(number)), None)
    ports = [port for port in range(LOWEST, HIGHEST + 1) if port < max(LOWEST_OF_KERNEL, LOWEST + 1000)]
    ports = ports if share is None else ports[share::SHARES]
    random.Random(process).shuffle(ports)
    return itertools.cycle(ports)


def _is_mine(share: int) -> bool:
    lock = Path(tempfile.gettempdir()) / f"neuronmodel-test-ports-{os.getuid()}-{share}.lock"
    opened = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return False
    _held.append(opened)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True
