"""The official openai client in a process whose names are resolved by the cluster, as in a pod."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.cluster.layout import GATEWAY
from tests.waiting import PATIENCE_SECONDS

PROGRAM = Path(__file__).with_name("openai_client.py")
# What the kubelet writes into a pod's resolv.conf; mounted over this machine's for the one process.
IN_A_POD = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


@dataclass
class Conversation:
    """One question under way."""

    process: subprocess.Popen[str]

    def pieces(self) -> Iterator[dict[str, Any]]:
        """As they come; the first one names the models."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield json.loads(line)

    def rest(self) -> list[dict[str, Any]]:
        pieces = list(self.pieces())
        errors = self.process.stderr.read() if self.process.stderr else ""
        assert self.process.wait(timeout=PATIENCE_SECONDS) == 0, errors
        return pieces


@contextmanager
def conversation(namespace: str, host: str, port: int, folder: Path, **arguments: Any) -> Iterator[Conversation]:
    """Ask `http://host:port/v1` from inside `namespace`."""
    resolver = folder / "resolv.conf"
    domain = "svc.cluster.local"
    resolver.write_text(f"nameserver {GATEWAY}\nsearch {namespace}.{domain} {domain}\noptions ndots:5\n")
    program = [sys.executable, str(PROGRAM), f"http://{host}:{port}/v1", json.dumps(arguments)]
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", IN_A_POD, str(resolver), *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )
    try:
        yield Conversation(process)
    finally:
        process.kill()
        process.wait(timeout=PATIENCE_SECONDS)
