"""Everything that a room's pods, the operator and the API server let people read, and which secrets are in it."""

import base64
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster.layout import LAYOUT, NODES
from neuronmodel_api import names
from tests.waiting import PATIENCE_SECONDS

from . import chart, outages
from .room import Room

OBJECTS = "nm,jobs,deployments,replicasets,pods,events,pvc,configmaps,services"
"""Pods have the termination messages; Secrets are where tokens belong."""
PLACES = ("log", "report", "process", "objects")
FOUND, NOT_FOUND = 0, 1
"""What grep exits with."""
# Addresses of this machine's own cluster: never through a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Disclosed:
    """What was read so far, by where it stood: logs and reports of pods that are gone since are still here."""

    room: Room
    texts: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        """Before pods are deleted, as their logs go with them."""
        self.texts |= dict(self._logs())
        self.texts |= dict(self._reports())
        self.texts |= dict(self._processes())
        printed = self.room.cluster.kubectl("get", OBJECTS, f"--namespace={self.room.namespace}", "--output=yaml")
        self.texts[f"objects {len(self.texts)}"] = printed

    def _logs(self) -> Iterator[tuple[str, str]]:
        """As the nodes keep them, those of containers that were restarted too."""
        for folder in (LAYOUT.node(node) / "pod-logs" for node in NODES):
            for namespace in (self.room.namespace, chart.NAMESPACE):
                for log in folder.glob(f"{namespace}_*/*/*.log"):
                    yield f"log {log.relative_to(folder)}", log.read_text(errors="replace")

    def _reports(self) -> Iterator[tuple[str, str]]:
        """Of workers that have their port open."""
        for model in self.room.applied():
            for pod in model.serving_pods():
                for page in ("status", "metrics"):
                    url = f"http://{pod['status']['podIP']}:{names.ADMIN_PORT}/{page}"
                    with suppress(OSError), _OPENER.open(url, timeout=PATIENCE_SECONDS) as answer:
                        yield f"report {pod['metadata']['name']}/{page}", answer.read().decode()

    def _processes(self) -> Iterator[tuple[str, str]]:
        """What a worker was started with."""
        for model in self.room.applied():
            for pod in model.children("Pod"):
                for pid in outages.processes_of(pod, "neuronmodel"):
                    with suppress(OSError):  # it ended meanwhile
                        process = Path("/proc", str(pid))
                        started = [(process / name).read_text(errors="replace") for name in ("environ", "cmdline")]
                        yield f"process {pod['metadata']['name']}", "".join(started)

    def holding(self, secret: str) -> list[str]:
        """Where it stands."""
        forms = written(secret)
        return [place for place, text in self.texts.items() if any(form in text for form in forms)]


def files_holding(folders: Sequence[Path], *secrets: str) -> list[Path]:
    """Files of volumes, weights included, which have at least one of them; all are looked for at once."""
    assert folders
    assert secrets, "an empty pattern is in every file"
    patterns = "\n".join(form for secret in secrets for form in written(secret))
    command = ("grep", "--recursive", "--files-with-matches", "--binary-files=text", "--fixed-strings", "--file=-")
    done = subprocess.run(
        (*command, *map(str, folders)), input=patterns, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    assert done.returncode in (FOUND, NOT_FOUND), done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def written(secret: str) -> tuple[str, str]:
    """As it is, and as objects hold data."""
    return secret, base64.b64encode(secret.encode()).decode()
