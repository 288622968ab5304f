"""Processes that need not import anything: they are forked from one that has imported it, by the standard library's
fork server. What they do from then on, signals, ports and files, is what a process of their own does.

A process has one such server: `preload` says what is imported in it, before the first is forked.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

ENVIRONMENT = dict(os.environ)
"""As it is before a test changes it: the process that all others come from must not be one test's."""
CONTEXT = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    CONTEXT.set_forkserver_preload(list(modules))


class ForkedProcess:
    """Runs `target` with the environment, and its arguments; its errors go to the end of a file. It has those methods
    of subprocess.Popen that tests use."""

    def __init__(
        self, target: Callable[..., int], arguments: tuple[Any, ...], environment: Mapping[str, str], errors: Path
    ) -> None:
        self._errors = errors
        self._process: ForkServerProcess = CONTEXT.Process(
            target=_run, args=(target, arguments, dict(environment), errors)
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

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self._errors), timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        """Waits for its end. Returns None, as Popen does for a stream that is not read, and what it wrote to stderr."""
        self.wait(timeout)
        return None, self._errors.read_text()


def _run(
    target: Callable[..., int], arguments: tuple[Any, ...], environment: Mapping[str, str], errors: Path
) -> NoReturn:
    with errors.open("ab") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.clear()
    os.environ.update(environment)
    code = target(*arguments)
    sys.stderr.flush()
    os._exit(code)
