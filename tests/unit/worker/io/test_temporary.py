"""Temporary files on a scratch volume that outlives pods: of runs that were killed nothing stays."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neuronmodel_worker.io import temporary
from neuronmodel_worker.io.temporary import make_folder

RUN = """
import sys
from pathlib import Path
from neuronmodel_worker.io.temporary import make_folder
folder = make_folder(Path(sys.argv[1]))
(folder / "compiler").mkdir()
(folder / "compiler" / "work").write_bytes(b"w" * 1000)
print(folder, flush=True)
sys.stdin.read()
"""


@contextmanager
def running(scratch: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another run, in its folder."""
    command = [sys.executable, "-c", RUN, str(scratch)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path: Path) -> None:
    with running(tmp_path) as (process, left):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (left / "compiler" / "work").exists()
        mine = make_folder(tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == [mine]


def test_what_a_run_that_lives_has_there_stays(tmp_path: Path) -> None:
    with running(tmp_path) as (_, held):
        assert make_folder(tmp_path) != held
        make_folder(tmp_path)
        assert (held / "compiler" / "work").exists()


def test_what_is_no_run_s_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "tmp" / "mine"
    mine.mkdir(parents=True)
    make_folder(tmp_path)
    assert mine.exists()


def test_a_compiler_works_in_the_run_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert temporary.within(tmp_path) == tmp_path, "a run that has none works on scratch itself"
    folder = make_folder(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert temporary.within(tmp_path) == folder
