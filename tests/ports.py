"""TCP ports of this machine for servers that tests start a moment later.

A port that the kernel gives and gets back belongs to whoever asks next: another test, or any connection that is opened
before the server listens. So ports are taken from below those that the kernel gives by itself, by every process in
another order and none twice.
"""

import itertools
import os
import random
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LOWEST, HIGHEST = 12_000, 29_999
"""Beside those of Kubernetes' own processes and its node ports."""
LOWEST_OF_KERNEL = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def free_port() -> int:
    """That nobody has now, on any address."""
    return next(port for port in _order(os.getpid()) if _is_free(port))


@cache
def _order(process: int) -> Iterator[int]:
    """By process: one that is forked has its parent's memory."""
    ports = [port for port in range(LOWEST, HIGHEST + 1) if port < max(LOWEST_OF_KERNEL, LOWEST + 1000)]
    random.Random(process).shuffle(ports)
    return itertools.cycle(ports)


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("", port))
        except OSError:
            return False
    return True
