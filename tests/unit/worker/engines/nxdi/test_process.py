"""A child's output is kept, and nothing of its process group outlives the call or the parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from neuronmodel_worker.engines.nxdi import child_process
from neuronmodel_worker.prepare.concurrency import Cancelled
from tests.paths import PROJECT


@pytest.fixture(autouse=True)
def _sleeping_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "CHILD", "tests.unit.worker.engines.nxdi.sleeping_child")
    monkeypatch.chdir(PROJECT)


def is_alive(pid: int) -> bool:
    """Zombies, which nobody has looked after yet, are dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)


def pids(log: Path) -> list[int]:
    file = Path(f"{log}.pid")
    until(lambda: file.exists() and len(file.read_text().split()) == 2)
    return [int(pid) for pid in file.read_text().split()]


def test_output_goes_to_the_log_and_its_end_is_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    ended = child_process.run_child({"say": "Compiler status PASS", "code": 70}, dict(os.environ), log)
    assert (ended.code, ended.output) == (70, "Compiler status PASS\n")
    assert log.read_text() == ended.output
    assert "Compiler status PASS" in capfd.readouterr().err


def test_what_a_child_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert child_process.run_child({"log": str(log), "leaves": True}, dict(os.environ), log).code == 0
    until(lambda: not any(map(is_alive, pids(log))))


def test_a_killed_parent_leaves_no_child(tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.worker.engines.nxdi.sleeping_parent", str(log)], cwd=PROJECT
    )
    children = pids(log)
    assert all(map(is_alive, children))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not any(map(is_alive, children)))


def test_a_parent_that_unwinds_ends_the_child(tmp_path: Path) -> None:
    """As when the other work of `prepare` fails, or SIGTERM comes: by an exception out of a signal's handler."""
    log = tmp_path / "log"

    def unwind(*_: object) -> None:
        raise Cancelled

    def when_it_runs() -> None:
        pids(log)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, unwind)
    main = threading.get_ident()
    threading.Thread(target=when_it_runs).start()
    try:
        with pytest.raises(Cancelled):
            child_process.run_child({"log": str(log)}, dict(os.environ), log)
    finally:
        signal.signal(signal.SIGUSR1, before)
    until(lambda: not any(map(is_alive, pids(log))))
