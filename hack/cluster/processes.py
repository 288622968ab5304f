"""Starts the cluster's processes so that they outlive this one, and ends them without ever hitting a stranger.

A record holds pid, start time and boot; a pid that was given to another process since then has another start time.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .commands import last_lines
from .failures import ClusterError
from .layout import LAYOUT
from .waiting import wait_until

START_SECONDS = 300.0
STOP_SECONDS = 20.0
KILLED_SECONDS = 120.0
# Of /proc/<pid>/stat, behind the command's name: proc_pid_stat(5) counts from 1, and that is its second field.
_NUM_THREADS, _STARTED = 17, 19


@dataclass(frozen=True)
class Process:
    """A recorded process. `started` is in clock ticks since `boot`."""

    pid: int
    started: int
    boot: str
    command: list[str]

    @property
    def alive(self) -> bool:
        return self.boot == _boot() and started_at(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Nothing where it is gone."""
        if self.alive:
            _signal([self.pid], number)


def ensure(
    name: str, command: Sequence[str | Path], *, ready: Callable[[], bool], env: Mapping[str, str] | None = None
) -> None:
    """Have `name` run with exactly this command line and be ready; a running one with another is replaced."""
    wanted = [str(word) for word in command]
    current = recorded(name)
    if current is None or not current.alive or current.command != wanted:
        stop(name)
        current = _start(name, wanted, env)
    _wait_ready(name, current, ready)


def recorded(name: str) -> Process | None:
    try:
        return Process(**json.loads(_record(name).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def names() -> list[str]:
    return sorted(path.stem for path in LAYOUT.processes.glob("*.json"))


def log_of(name: str) -> Path:
    return LAYOUT.logs / f"{name}.log"


def stop(name: str, *, how: signal.Signals = signal.SIGTERM) -> None:
    """End the recorded process if it still is the one that was started, and forget it."""
    process = recorded(name)
    if process is not None and process.alive:
        end([process.pid], how=how)
    _record(name).unlink(missing_ok=True)


def end(pids: Sequence[int], *, how: signal.Signals = signal.SIGTERM) -> None:
    """Signal these processes, then kill those that stay."""
    identities = {pid: started_at(pid) for pid in pids}

    def staying() -> list[int]:
        return [pid for pid, started in identities.items() if started is not None and started_at(pid) == started]

    _signal(staying(), how)
    try:
        wait_until(lambda: not staying(), seconds=STOP_SECONDS, what="processes to end", poll=0.02)
    except ClusterError:
        _signal(staying(), signal.SIGKILL)
        wait_until(lambda: not staying(), seconds=KILLED_SECONDS, what=f"killed processes to go: {staying()}")


def started_at(pid: int) -> int | None:
    """The start time of a live process in clock ticks since boot; None for none, or one that is only waited for. While
    threads of a killed one are still ending, its first may be gone, and its ports are taken."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    _reap(pid)
    is_over = fields[0] in "ZX" and int(fields[_NUM_THREADS]) <= 1
    return None if is_over else int(fields[_STARTED])


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _signal(pids: Sequence[int], how: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            continue


def _start(name: str, command: list[str], env: Mapping[str, str] | None) -> Process:
    log = log_of(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_suffix(".previous.log"))
    with log.open("w") as sink:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd="/",
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    process = Process(child.pid, started_at(child.pid) or 0, _boot(), command)
    LAYOUT.processes.mkdir(parents=True, exist_ok=True)
    _record(name).write_text(json.dumps(asdict(process)))
    # It is meant to outlive this program: without this, Python warns that it still runs.
    child.returncode = 0
    return process


def _wait_ready(name: str, process: Process, ready: Callable[[], bool]) -> None:
    def settled() -> bool:
        return ready() or not process.alive

    try:
        wait_until(settled, seconds=START_SECONDS, what=f"{name} is not ready")
    except ClusterError as error:
        raise ClusterError(f"{error}. {_log_says(name)}") from error
    if not process.alive:
        raise ClusterError(f"{name} ended right after its start. {_log_says(name)}")


def _log_says(name: str) -> str:
    log = log_of(name)
    return f"The last lines of {log}:\n{last_lines(log.read_text(errors='replace'))}"


def _record(name: str) -> Path:
    return LAYOUT.processes / f"{name}.json"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
