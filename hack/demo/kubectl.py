"""kubectl and helm as a user types them: every command that changes something is shown before it runs."""

import json
import os
import shlex
import subprocess
from typing import Any

from hack.cluster.layout import LAYOUT


class CommandFailed(Exception):
    """The message holds the command and its output."""


def run(*command: str, show: bool = True, stdin: str | None = None) -> str:
    """Standard output. Raises CommandFailed."""
    if show:
        print(f"\n$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, input=stdin, env=environment(), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise CommandFailed(f"`{shlex.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    if show:
        print("\n".join(f"  {line}" for line in done.stdout.strip().splitlines()), flush=True)
    return done.stdout


def get(*arguments: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(run("kubectl", "get", *arguments, "-o", "json", show=False))
    return parsed


def environment() -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(LAYOUT.kubeconfig), "PATH": f"{LAYOUT.binaries}:{os.environ['PATH']}"}
