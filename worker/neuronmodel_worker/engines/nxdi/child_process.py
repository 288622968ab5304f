"""Runs `child` to its end: its output goes to a log and to stderr, and nothing of its group outlives the call."""

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
LAST_WORDS_SECONDS = 5
WAIT_SECONDS = 1.0
CHILD = "neuronmodel_worker.engines.nxdi.child"


@dataclass(frozen=True)
class ChildResult:
    """`code` is negative for a signal; `output` holds the last KEPT_BYTES."""

    code: int
    output: str


@dataclass
class Copying:
    """Of a stream's bytes, to two places; the last ones are kept."""

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
    """Raises OSError where it cannot be started, and whatever unwinds the caller meanwhile."""
    with log_file.open("ab") as log, _started(environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        copying = Copying(process.stdout, log)
        thread = threading.Thread(target=copying.run, name="child-output", daemon=True)
        thread.start()
        try:
            process.stdin.write(json.dumps(dict(instruction)).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended already, and its output says why
        code = _wait(process)
        _kill_group(process)
        thread.join(LAST_WORDS_SECONDS)
        return ChildResult(code, copying.kept.decode(errors="replace"))


def _wait(process: subprocess.Popen[bytes]) -> int:
    """In turns: a signal to this thread that comes just before a wait without end would be noticed after it."""
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
    """Also when its leader has ended: a group lives as long as one of its members."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
