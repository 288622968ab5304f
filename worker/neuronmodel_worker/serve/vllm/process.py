"""vLLM as a child process: neither outlives the other, and vLLM's output goes to the worker's log."""

import collections
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from neuronmodel_worker.engines import NoEngine
from neuronmodel_worker.serve.vllm import launch

log = logging.getLogger(__name__)

TAIL_LINES: Final = 400
STOP_SECONDS: Final = 10.0
"""How long vLLM may take to end by itself and free its devices when no request is in progress."""
OUTPUT_SECONDS: Final = 2.0


def vllm_program() -> str:
    """Returns the path of `vllm`: next to the running Python, otherwise on the PATH. Raises NoEngine."""
    sibling = Path(sys.executable).with_name("vllm")
    program = str(sibling) if os.access(sibling, os.X_OK) else shutil.which("vllm")
    if program is None:
        raise NoEngine(
            "This image has no command `vllm`, though the package is there. Install vLLM whole, or remove "
            "spec.serving.server."
        )
    return program


class VllmProcess:
    """vLLM and all processes that it starts, in a process group of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        launcher = [sys.executable, "-m", launch.__name__, str(os.getpid())]
        self._process = subprocess.Popen(
            [*launcher, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._tail: collections.deque[bytes] = collections.deque(maxlen=TAIL_LINES)
        self._output = threading.Thread(target=self._pass_on, name="vllm-output", daemon=True)
        self._output.start()

    def _pass_on(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._tail.append(line)
            with suppress(OSError, ValueError):  # nothing reads the log any more
                sys.stderr.write(line.decode(errors="replace"))
                sys.stderr.flush()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self._process.poll()

    def tail(self) -> str:
        """Returns the last lines of its output, up to the very last one if it has ended."""
        if self.exit_code is not None:
            self._output.join(OUTPUT_SECONDS)
        return b"".join(tuple(self._tail)).decode(errors="replace")

    def stop(self) -> None:
        """Ends it, and returns when none of its processes is left."""
        if self.exit_code is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        if self.exit_code is None:
            log.warning("vLLM did not end within %d s and is killed", STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._await_group()
        self._output.join(OUTPUT_SECONDS)

    def _await_group(self) -> None:
        """Waits for the group to disappear: its children belong to init now, which reaps them in its own time."""
        deadline = time.monotonic() + OUTPUT_SECONDS
        with suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.killpg(self._process.pid, 0)
                time.sleep(0.01)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[VllmProcess]:
    """Runs the command for the length of the context."""
    child = VllmProcess(command, environment)
    try:
        yield child
    finally:
        child.stop()
