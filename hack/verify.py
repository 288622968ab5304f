"""`make test`: everything there is to check, in one go, set up by itself.

Lint and the unit tests run in this process' lane, everything on the cluster in a lane at the same time, by a child
process: bringing it up, building its images, its tests. Tests on the cluster mostly wait, unit tests mostly compute,
and give way. What the child prints is shown between the steps of this lane, and as it comes when they are done. A step
that fails ends neither lane, as the others may find something too; only lint does.

The cluster is ended again if it was not there before. Where a cluster cannot run (no root), the tests on it are left
out with a sentence; with CI=true that is a failure.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
BIN = PROJECT / ".venv" / "bin"
SOURCES = ("api", "operator", "worker", "kubectl", "hack", "tests")
CLUSTER = (sys.executable, "-m", "hack.cluster")
LANE_ON_THE_CLUSTER = "on-the-cluster"
CANNOT_RUN_HERE = 3
"""What `hack.cluster` exits with on a machine that cannot run a cluster."""

LINT = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
)
PROGRAMS = ("versitygw", "promtool")
"""What unit tests run, compiled here: an S3 server, and what checks Prometheus' rules."""
FAULTS = "tests/store_faults"
# Two modules at a time: what a module's tests share is made once. In their order, where the slow ones are not the last.
SIDE_BY_SIDE = ("--numprocesses=2", "--dist=loadfile", "--no-loadscope-reorder")
UNIT = (
    ("pytest", "tests/unit", *SIDE_BY_SIDE),
    # They stop processes at every change, by several processes of their own.
    ("pytest", FAULTS),
)
IMAGES = ("operator", "worker", "worker-neuron")
ON_THE_API_SERVER = ("pytest", "tests/cluster")
END_TO_END = ("pytest", "tests/e2e")
# The lane of the cluster is the longer one: its pods and builds have the processors first.
GIVING_WAY = ("nice", "-n", "10")


class Failed(Exception):
    """What cannot be gone on after; the message is a sentence."""


def main(arguments: Sequence[str]) -> int:
    if arguments == [LANE_ON_THE_CLUSTER]:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # it ends what it began as well
        return _report(_test_on_the_cluster())
    began = time.monotonic()
    _compile_bytecode()
    with _cluster() as lane:
        try:
            failures = _lint() or _test_units(lane) + lane.failures()
        except Failed as failure:
            failures = [str(failure)]
    if not failures:
        print(f"\nmake test: passed in {_minutes(time.monotonic() - began)}")
    return _report(failures)


def _compile_bytecode() -> None:
    """Tests start hundreds of processes. Where Python may not write bytecode, each would compile all it imports."""
    command = (sys.executable, "-m", "compileall", "-q", *SOURCES)
    subprocess.run(command, cwd=PROJECT, check=False)  # what cannot be compiled is for lint to tell


def _report(failures: list[str]) -> int:
    for sentence in failures:
        print(f"\nmake test: {sentence}", file=sys.stderr)
    return 1 if failures else 0


def _lint() -> list[str]:
    """At most one failure: a mistake of a minute ago is not tested for half an hour."""
    return next(filter(None, map(_step, LINT)), [])


def _test_units(lane: "_Lane") -> list[str]:
    failures = _make_model() + _make_programs()
    for command in UNIT:
        lane.show()
        failures += _step(command, before=GIVING_WAY)
    return failures


def _make_model() -> list[str]:
    """Unit tests hold the engine to it too."""
    _say("the real model")
    code = subprocess.run((*CLUSTER, "model"), cwd=PROJECT, check=False).returncode
    if code in (0, CANNOT_RUN_HERE) and not (code and _nothing_may_be_left_out()):
        return []
    raise Failed(f"`hack.cluster model` exited with {code}; its output is above")


def _make_programs() -> list[str]:
    """Built in this lane and niced: the other one is the longer, and compiles at this time where nothing is cached."""
    failures = []
    for program in PROGRAMS:
        _say(f"{program}, which tests run")
        if code := subprocess.run((*CLUSTER, program), cwd=PROJECT, check=False).returncode:
            failures.append(f"`hack.cluster {program}` exited with {code}; its output is above")
    return failures


def _nothing_may_be_left_out() -> bool:
    return os.environ.get("CI") == "true"


@contextmanager
def _cluster() -> Iterator["_Lane"]:
    status = subprocess.run((*CLUSTER, "status", "--quiet"), cwd=PROJECT, capture_output=True, check=False)
    was_up = status.returncode == 0
    with _begun(sys.executable, "-m", "hack.verify", LANE_ON_THE_CLUSTER) as lane:
        try:
            yield lane
        finally:
            lane.end()
            if not was_up:
                subprocess.run((*CLUSTER, "down"), cwd=PROJECT, check=False)


def _test_on_the_cluster() -> list[str]:
    """All of the other lane. The images are built while the tests run that need none."""
    _say("the local cluster")
    code = subprocess.run((*CLUSTER, "up"), cwd=PROJECT, check=False).returncode
    if code == CANNOT_RUN_HERE and not _nothing_may_be_left_out():
        print("    LEFT OUT: tests/cluster and tests/e2e, as this machine cannot run a cluster; see above")
        return []
    if code:
        return [f"the local cluster did not come up (exit code {code}); its output is above"]
    with _begun(*CLUSTER, "images", *IMAGES) as images:
        failures = _step(ON_THE_API_SERVER)
        _say("the images")
        if code := images.followed():
            return [*failures, f"the images were not built (exit code {code}); the output is above"]
    return failures + _step(END_TO_END)


class _Lane:
    """A command that runs at the same time, with its output in a file until somebody shows it."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        self._shown = 0
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )

    def show(self) -> None:
        """What was printed since."""
        text = self._log.read_bytes()
        sys.stdout.buffer.write(text[self._shown :])
        sys.stdout.buffer.flush()
        self._shown = len(text)

    def followed(self) -> int:
        """Show it to its end; its exit code."""
        while self._process.poll() is None:
            self.show()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
        self.show()
        return self._process.returncode

    def failures(self) -> list[str]:
        _say("what the lane of the cluster has still to do")
        return ["a step on the cluster failed; its output is above"] if self.followed() else []

    def end(self) -> None:
        """It, and what it has started, where it still runs."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()


@contextmanager
def _begun(*command: str) -> Iterator[_Lane]:
    with tempfile.TemporaryDirectory(prefix="neuronmodel-verify-") as folder:
        lane = _Lane(command, Path(folder, "log"))
        try:
            yield lane
        finally:
            lane.end()


def _step(command: tuple[str, ...], before: tuple[str, ...] = ()) -> list[str]:
    """What failed, if anything: at most one sentence."""
    began = time.monotonic()
    title = " ".join(command)
    _say(title)
    code = subprocess.run((*before, str(BIN / command[0]), *command[1:]), cwd=PROJECT, check=False).returncode
    print(f"    {'passed' if code == 0 else 'FAILED'} in {_minutes(time.monotonic() - began)}", flush=True)
    return [f"`{title}` exited with {code}; its output is above"] if code else []


def _say(title: str) -> None:
    print(f"\n==> {title}", flush=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}m {seconds % 60:.0f}s"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
