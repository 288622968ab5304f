"""The cluster's API, through kubectl with the administrator's kubeconfig."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from .binaries import binary
from .commands import run
from .layout import LAYOUT

Manifest = Mapping[str, Any]


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Returns kubectl's standard output. Raises ClusterError with its error message."""
    return run([*_command(), *arguments], stdin=stdin, timeout=300)


def get(*arguments: str) -> Any:
    return json.loads(kubectl("get", *arguments, "--output=json"))


def apply(*manifests: Manifest) -> None:
    """Server-side, with everything that this cluster sets up under one owner."""
    options = ["--server-side", "--force-conflicts", "--field-manager=hack-cluster", "--filename=-"]
    listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
    kubectl("apply", *options, stdin=json.dumps(listed))


def patch(kind: str, name: str, operations: Sequence[Mapping[str, Any]], *, subresource: str = "") -> None:
    """A JSON patch of a cluster-scoped object."""
    extra = [f"--subresource={subresource}"] if subresource else []
    kubectl("patch", kind, name, "--type=json", f"--patch={json.dumps(list(operations))}", *extra)


def answers(path: str) -> bool:
    """Whether the API server answers this path with success."""
    done = subprocess.run([*_command(), "get", "--raw", path], capture_output=True, timeout=300, check=False)
    return done.returncode == 0


def _command() -> list[str]:
    return [str(binary("kubectl")), f"--kubeconfig={LAYOUT.kubeconfig}", "--request-timeout=60s"]
