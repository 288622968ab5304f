"""`make test`: everything there is to check, in one go, set up by itself.

The cluster is brought up beside lint and unit tests, as its first start compiles Kubernetes for some minutes. It is
ended again if it was not there before. Where a cluster cannot run (no root), the tests on it are left out with a
sentence; with CI=true that is a failure.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
BIN = PROJECT / ".venv" / "bin"
CLUSTER = (sys.executable, "-m", "hack.cluster")
IMAGES = ("operator", "worker", "worker-neuron")
CANNOT_RUN_HERE = 3
"""What `hack.cluster` exits with on a machine that cannot run a cluster."""

LINT = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
FAULTS = "tests/store_faults"
# Two modules at a time: what a module's tests share is made once. In their order, where the slow ones are not the last.
SIDE_BY_SIDE = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
UNIT = ("pytest", "tests/unit", *SIDE_BY_SIDE)
# They stop processes at every change, by several processes of their own.
UNIT_FAULTS = ("pytest", FAULTS)
ON_THE_CLUSTER = ("pytest", "tests/cluster", "tests/e2e")


class Failed(Exception):
    """A step that did not pass; the message is a sentence."""


def main() -> int:
    began = time.monotonic()
    try:
        with _cluster() as ready:
            for command in LINT:
                _step(command)
            _make_model()
            _step(UNIT)
            _step(UNIT_FAULTS)
            if ready():
                _step(ON_THE_CLUSTER)
    except Failed as failure:
        print(f"\nmake test: {failure}", file=sys.stderr)
        return 1
    print(f"\nmake test: passed in {_minutes(time.monotonic() - began)}")
    return 0


@contextmanager
def _cluster() -> Iterator["_Ready"]:
    status = subprocess.run((*CLUSTER, "status", "--quiet"), cwd=PROJECT, capture_output=True, check=False)
    was_up = status.returncode == 0
    with tempfile.NamedTemporaryFile("w+", prefix="neuronmodel-cluster-", suffix=".log", delete=False) as log:
        setup = subprocess.Popen(
            ["bash", "-c", f'"$@" up && "$@" images {" ".join(IMAGES)}', "setup", *CLUSTER],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        yield _Ready(setup, Path(log.name))
    finally:
        if setup.poll() is None:
            os.killpg(setup.pid, signal.SIGTERM)
            setup.wait()
        Path(log.name).unlink(missing_ok=True)
        if not was_up:
            subprocess.run((*CLUSTER, "down"), cwd=PROJECT, check=False)


def _make_model() -> None:
    """Unit tests hold the engine to it too."""
    _say("the real model")
    code = subprocess.run((*CLUSTER, "model"), cwd=PROJECT, check=False).returncode
    if code not in (0, CANNOT_RUN_HERE) or (code and _nothing_may_be_left_out()):
        raise Failed(f"`hack.cluster model` exited with {code}; its output is above")


def _nothing_may_be_left_out() -> bool:
    return os.environ.get("CI") == "true"


class _Ready:
    """Waits for the cluster that is being brought up: True once it is there, False where none can run."""

    def __init__(self, setup: subprocess.Popen[bytes], log: Path) -> None:
        self._setup = setup
        self._log = log

    def __call__(self) -> bool:
        began = time.monotonic()
        _say("the local cluster, its images and its model")
        shown = 0
        while self._setup.poll() is None:
            shown = self._show_from(shown)
            time.sleep(1)
        self._show_from(shown)
        if self._setup.returncode == 0:
            print(f"    ready after {_minutes(time.monotonic() - began)} more", flush=True)
            return True
        if self._setup.returncode == CANNOT_RUN_HERE and not _nothing_may_be_left_out():
            print("    LEFT OUT: tests/cluster and tests/e2e, as this machine cannot run a cluster; see above")
            return False
        raise Failed(f"the local cluster did not come up (exit code {self._setup.returncode}); its output is above")

    def _show_from(self, shown: int) -> int:
        text = self._log.read_text(errors="replace")
        print(text[shown:], end="", flush=True)
        return len(text)


def _step(command: tuple[str, ...]) -> None:
    began = time.monotonic()
    _say(" ".join(command))
    code = subprocess.run((str(BIN / command[0]), *command[1:]), cwd=PROJECT, check=False).returncode
    if code != 0:
        raise Failed(f"`{' '.join(command)}` exited with {code}; its output is above")
    print(f"    passed in {_minutes(time.monotonic() - began)}", flush=True)


def _say(title: str) -> None:
    print(f"\n==> {title}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}m {seconds % 60:.0f}s"


if __name__ == "__main__":
    sys.exit(main())
