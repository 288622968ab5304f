"""Workers as processes of their own that need not import anything.

Two thirds of a short start are imports of PyTorch and transformers. Here one process imports them once, and each worker
is forked from it, by the standard library's fork server: what it does from then on, signals, ports, files and its last
report, is what a worker does. How one really begins, from its first line, is in test_cli.py.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch

from neuronmodel_api.report import Stage
from neuronmodel_worker.cli import pod_command
from neuronmodel_worker.report.clock import FirstLine
from neuronmodel_worker.run.runner import run_command

ENVIRONMENT = dict(os.environ)
"""As it is before a test changes it: the process that all workers come from must not be one test's."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.unit.worker.preloaded"])


class ForkedProcess:
    """A worker's process, with those methods of subprocess.Popen that tests use."""

    def __init__(self, command: str, environment: Mapping[str, str], termination_log: Path, stderr: Path) -> None:
        self._stderr = stderr
        self._process: ForkServerProcess = CONTEXT.Process(
            target=_run, args=(command, dict(environment), termination_log, stderr)
        )
        with patch.dict(os.environ, ENVIRONMENT, clear=True):
            forkserver.ensure_running()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Waits for its end. Returns None, as Popen does for a stream that is not read, and what it wrote to stderr."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("neuronmodel", timeout or 0)
        return None, self._stderr.read_text()


def _run(command: str, environment: Mapping[str, str], termination_log: Path, stderr: Path) -> NoReturn:
    """As neuronmodel_worker.cli does it."""
    first_line = FirstLine.now()
    with stderr.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    stage = Stage[command.upper()]
    code = run_command(stage, lambda: pod_command(command), None, termination_log, first_line, os.environ)
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
