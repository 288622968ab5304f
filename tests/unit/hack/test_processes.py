"""Processes of the cluster: found again, replaced, and never mistaken for a stranger's."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hack.cluster import processes
from hack.cluster.failures import ClusterError
from hack.cluster.layout import Layout
from hack.cluster.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    own = Layout(state=tmp_path, run=tmp_path / "run")
    monkeypatch.setattr(processes, "LAYOUT", own)
    yield own
    for name in processes.names():
        processes.stop(name)


def started(name: str, command: list[str]) -> processes.Process:
    processes.ensure(name, command, ready=lambda: True)
    process = processes.recorded(name)
    assert process is not None
    return process


def test_a_running_process_is_left_alone() -> None:
    first = started("sleeper", SLEEP)
    assert started("sleeper", SLEEP) == first


def test_another_command_line_replaces_the_process() -> None:
    first = started("sleeper", SLEEP)
    second = started("sleeper", [*SLEEP, "again"])
    assert second.pid != first.pid
    assert not first.alive
    assert second.alive


def test_a_stopped_process_is_gone_and_forgotten() -> None:
    process = started("sleeper", SLEEP)
    processes.stop("sleeper")
    assert not process.alive
    assert processes.recorded("sleeper") is None


def test_a_stranger_with_the_recorded_pid_is_not_ended(layout: Layout) -> None:
    process = started("sleeper", SLEEP)
    record = json.loads((layout.processes / "sleeper.json").read_text())
    stale = layout.processes / "stale.json"
    stale.write_text(json.dumps({**record, "started": record["started"] - 1}))
    processes.stop("stale")
    assert process.alive
    assert not stale.exists()


def test_a_record_from_before_a_reboot_names_no_live_process() -> None:
    process = started("sleeper", SLEEP)
    assert not replace(process, boot="another").alive


def test_a_process_that_ends_at_once_is_reported_with_its_last_words() -> None:
    with pytest.raises(ClusterError, match="ended right after its start") as failure:
        processes.ensure("broken", [sys.executable, "-c", "raise SystemExit('no such disk')"], ready=lambda: False)
    assert "no such disk" in str(failure.value)
    assert str(processes.log_of("broken")) in str(failure.value)


def test_a_process_whose_first_thread_has_ended_lives_as_long_as_another_does() -> None:
    """As one that was killed and whose threads are still ending: its ports are taken."""
    program = (
        "import ctypes, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "print('ready', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        state = Path(f"/proc/{child.pid}/stat")
        wait_until(
            lambda: state.read_text().rpartition(")")[2].split()[0] == "Z", seconds=60, what="its first thread to end"
        )
        assert processes.started_at(child.pid) is not None
        child.stdin.close()
        wait_until(lambda: processes.started_at(child.pid) is None, seconds=60, what="it to end")
