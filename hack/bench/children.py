"""Runs a contender in a process of its own and measures what its own clock does not see: anonymous memory, and what the
process cost as a whole."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.bench.contenders.task import GO, READY, Task, Timing
from hack.bench.failures import BenchFailed
from hack.bench.quiet import DiskCounters, disk_counters

PROJECT = Path(__file__).resolve().parents[2]
SAMPLE_SECONDS = 0.02
TIMEOUT_SECONDS = 900.0
PREPARED_WITHIN_SECONDS = 300.0


@dataclass(frozen=True)
class Measured:
    """`timing` is what the contender timed. The process as a whole took `process_seconds` (practice and wait left out)
    and `process_processor_seconds` (practice included). Peaks are of anonymous memory, while the clock ran;
    `…_before` is what the process had when it started."""

    timing: Timing
    process_seconds: float
    process_processor_seconds: float
    anonymous_bytes_before: int
    peak_anonymous_bytes: int
    disk: "DiskUse | None"


@dataclass(frozen=True)
class DiskUse:
    """What the disk did while the clock ran, for whomever."""

    read_bytes: int
    written_bytes: int
    busy_seconds: float

    @classmethod
    def between(cls, before: DiskCounters | None, after: DiskCounters | None) -> "DiskUse | None":
        if before is None or after is None:
            return None
        return cls(
            after.read_bytes - before.read_bytes,
            after.written_bytes - before.written_bytes,
            round(after.busy_seconds - before.busy_seconds, 3),
        )


def run_contender(
    module: str, task: Task, make_quiet: Callable[[], object], environment: Mapping[str, str] | None = None
) -> Measured:
    """`make_quiet` is called when the contender has prepared itself, just before its clock starts. `environment` is
    added to what the process inherits.

    Raises BenchFailed with the contender's output.
    """
    command = [sys.executable, "-m", "hack.bench.contenders", module, task.to_json()]
    began = time.monotonic()
    with _process(command, environment or {}) as process:
        with _ended_after(process, PREPARED_WITHIN_SECONDS):
            practised = _expect_ready(process, module)
        prepared = time.monotonic() - began - practised
        make_quiet()
        sampler = MemorySampler(process.pid)
        before, disk_before, began = sampler.sample(), disk_counters(task.source), time.monotonic()
        with sampler, _ended_after(process, TIMEOUT_SECONDS):
            answer = _go(process)
            disk = DiskUse.between(disk_before, disk_counters(task.source))
            sampler.sample()
        usage = _reap(process)
    if process.returncode:
        raise BenchFailed(_why(process, module))
    return Measured(
        timing=Timing(**json.loads(answer)),
        process_seconds=prepared + time.monotonic() - began,
        process_processor_seconds=usage,
        anonymous_bytes_before=before,
        peak_anonymous_bytes=sampler.peak,
        disk=disk,
    )


@contextmanager
def _process(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _ended_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _expect_ready(process: subprocess.Popen[str], module: str) -> float:
    """The seconds of its practice."""
    assert process.stdout is not None
    word, _, practised = process.stdout.readline().partition(" ")
    if word != READY:
        process.wait()
        raise BenchFailed(_why(process, module))
    return float(practised)


def _go(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{GO}\n")
    process.stdin.flush()
    return process.stdout.readline()


def _reap(process: subprocess.Popen[str]) -> float:
    """Let it end. Its processor seconds; it is left as `wait` would leave it."""
    assert process.stdin is not None
    process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def _why(process: subprocess.Popen[str], module: str) -> str:
    assert process.stderr is not None
    lines = process.stderr.read().strip().splitlines()[-12:]
    return "\n  ".join([f"The contender {module} ended with exit code {process.returncode} and printed:", *lines])


class MemorySampler:
    """The largest RssAnon of a process and its children, looked at every 20 ms: shorter peaks may be missed. Pages of
    mapped files are no part of it, nor is page cache."""

    def __init__(self, process_id: int) -> None:
        self.peak = 0
        self._process_id = process_id
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def sample(self) -> int:
        nbytes = sum(map(anonymous_bytes, (self._process_id, *_children(self._process_id))))
        self.peak = max(self.peak, nbytes)
        return nbytes

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.sample()

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def anonymous_bytes(process_id: int) -> int:
    """0 for a process that is gone."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(found[0]) * 1024 if found else 0


def _children(process_id: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]
    except OSError:
        return []
