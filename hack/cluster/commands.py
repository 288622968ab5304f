"""Runs other programs; one that fails becomes a sentence with its last lines."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .failures import ClusterError

LINES_SHOWN = 15


def run(
    command: Sequence[str | Path],
    *,
    stdin: str | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    log: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Its standard output; `env` is added to the environment, `log` gets both streams instead. Raises ClusterError."""
    if shutil.which(command[0]) is None:
        raise ClusterError(f"the program {command[0]} is not installed; install it and try again.")
    if log is not None:
        return _run_into(log, command, cwd=cwd, env=env, timeout=timeout)
    done = subprocess.run(
        command, input=stdin, cwd=cwd, env=_with(env), text=True, capture_output=True, timeout=timeout, check=False
    )
    if done.returncode != 0:
        raise ClusterError(_failed(command, done.returncode, done.stderr or done.stdout))
    return done.stdout


def succeeds(command: Sequence[str | Path]) -> bool:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def _run_into(
    log: Path, command: Sequence[str | Path], cwd: Path | None, env: Mapping[str, str] | None, timeout: float | None
) -> str:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=cwd,
            env=_with(env),
            timeout=timeout,
            check=False,
        )
    if done.returncode != 0:
        raise ClusterError(
            _failed(command, done.returncode, log.read_text(errors="replace")) + f"\nThe whole of it: {log}"
        )
    return ""


def _with(env: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(env or {})}


def _failed(command: Sequence[str | Path], code: int, output: str) -> str:
    return f"`{' '.join(map(str, command))[:300]}` ended with {code}. Its last lines:\n{last_lines(output)}"


def last_lines(text: str, count: int = LINES_SHOWN) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-count:])
