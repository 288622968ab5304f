"""Runs `child` to its end: its output goes to a log and to stderr, and no process of its group outlives the call."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

KEPT_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16
FLUSH_SECONDS = 5
WAIT_SECONDS = 1.0
CHILD = "neuronmodel_worker.engines.nxdi.child"


@dataclass(frozen=True)
class ChildResult:
    """The end of a child. `code` is negative for a signal; `output` has the last KEPT_BYTES."""

    code: int
    output: str


@dataclass
class OutputCopier:
    """Copies a stream to a log and to stderr, and keeps the last bytes."""

    stream: IO[bytes]
    log: IO[bytes]
    kept: bytearray = field(default_factory=bytearray)

    def run(self) -> None:
        descriptor = self.stream.fileno()
        while chunk := os.read(descriptor, CHUNK_BYTES):
            self.log.write(chunk)
            self.log.flush()
            with suppress(OSError):
                sys.stderr.buffer.write(chunk)
                sys.stderr.buffer.flush()
            self.kept += chunk
            del self.kept[:-KEPT_BYTES]


def run_child(instruction: Mapping[str, Any], environment: Mapping[str, str], log_file: Path) -> ChildResult:
    """Run a child to its end. Raises OSError where it cannot be started; an exception in the caller ends it."""
    with log_file.open("ab") as log, _started(environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        copier = OutputCopier(process.stdout, log)
        thread = threading.Thread(target=copier.run, name="child-output", daemon=True)
        thread.start()
        try:
            process.stdin.write(json.dumps(dict(instruction)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the child has ended already, and its output says why
        code = _wait(process)
        _kill_group(process)
        thread.join(FLUSH_SECONDS)
        return ChildResult(code, copier.kept.decode(errors="replace"))


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait with a timeout, again and again: a signal just before a wait without a timeout would be handled only after
    it."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(WAIT_SECONDS)


@contextmanager
def _started(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _kill_group(process)
        process.wait()
        with suppress(OSError):
            if process.stdin:
                process.stdin.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group, also when its leader has ended: a group exists as long as one of its members."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
