"""What a vLLM that was killed leaves in shared memory."""

import mmap
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neuronmodel_api import names
from neuronmodel_worker.serve.vllm import serve
from neuronmodel_worker.serve.vllm.shared_memory import remove_left_behind
from tests.waiting import PATIENCE_SECONDS

SHARED_MEMORY = Path(names.SHARED_MEMORY_MOUNT)
KILLED = """
import os, signal
from multiprocessing import resource_tracker, shared_memory
made = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(made._name, "shared_memory")
print(made.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_segments_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("psm_1a2b", "34547-tp:0-[0-1]-cpushm_1", "sem.other", "other"):
        (tmp_path / name).write_bytes(b"x" * 4096)
    (tmp_path / "psm_folder").mkdir()
    remove_left_behind(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "psm_folder", "sem.other"]
    remove_left_behind(tmp_path / "absent")


def test_segments_in_use_stay(tmp_path: Path) -> None:
    """Where other processes see the same, as on a machine without a pod."""
    used, left = tmp_path / "psm_used", tmp_path / "psm_left"
    for file in (used, left):
        file.write_bytes(bytes(4096))
    with used.open("r+b") as opened, mmap.mmap(opened.fileno(), 4096):
        remove_left_behind(tmp_path)
        assert (used.exists(), left.exists()) == (True, False)
    remove_left_behind(tmp_path)
    assert not used.exists()


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this kernel has no shared memory in files")
def test_a_killed_process_leaves_one_of_them() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    segment = SHARED_MEMORY / ended.stdout.strip()
    assert segment.exists()
    remove_left_behind(SHARED_MEMORY)
    assert not segment.exists()


@pytest.mark.parametrize("is_pod", [True, False])
def test_only_in_a_pod_is_anything_removed(is_pod: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = list[Path]()

    class StoppedError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StoppedError

    monkeypatch.delenv(names.ENV_POD_UID, raising=False)
    if is_pod:
        monkeypatch.setenv(names.ENV_POD_UID, "uid")
    monkeypatch.setattr(serve, "remove_left_behind", looked_at.append)
    monkeypatch.setattr(serve, "VllmServer", stop)
    with pytest.raises(StoppedError):
        serve.serve_by_vllm(None, None, None)  # type: ignore[arg-type]
    assert looked_at == ([SHARED_MEMORY] if is_pod else [])
