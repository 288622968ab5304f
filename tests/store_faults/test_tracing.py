"""The tests' own instrument: a process is stopped before the intended change, and its description is true."""

import ctypes
import errno
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from tests.store_faults import ptrace
from tests.store_faults.calls import CHANGES, Call
from tests.store_faults.forking import ForkServer
from tests.store_faults.traced import FullFrom, KillAt, follow


def some_changes(root: Path) -> str:
    """Nine changes below `root`, and some elsewhere. Syncs are answered instead of made."""
    (root.parent / "elsewhere").write_text("not counted")
    directory = os.open(root, os.O_RDONLY)
    os.mkdir("made", dir_fd=directory)
    with (root / "made" / "file").open("wb", buffering=0) as file:
        file.write(b"one")
        os.pwrite(file.fileno(), b"two", 3)
        os.fsync(file.fileno())
    assert (root / "made" / "file").read_bytes() == b"onetwo"
    (root / "made" / "file").rename(root / "named")
    thread = threading.Thread(target=os.link, args=(root / "named", root / "linked"))
    thread.start()
    thread.join()
    os.chdir(root)
    Path("named").unlink()
    (root / "made").rmdir()
    return "done"


CALLS = ["mkdirat", "openat", "write", "pwrite64", "fsync", "rename", "link", "unlink", "rmdir"]


def tree(root: Path) -> set[str]:
    return {f"{path.name} {path.stat().st_size if path.is_file() else ''}".strip() for path in root.rglob("*")}


AFTER = [
    set(),
    {"made"},
    {"made", "file 0"},
    {"made", "file 3"},
    {"made", "file 6"},
    {"made", "named 6"},
    {"made", "named 6", "linked 6"},
    {"made", "linked 6"},
]


def test_every_change_below_the_root_is_seen_and_no_other(tmp_path: Path, server: ForkServer) -> None:
    (root := tmp_path / "root").mkdir()
    outcome = server.follow(partial(some_changes, root), root, KillAt(0))
    assert (outcome.killed, outcome.value) == (False, "done")
    assert [call.name for call in outcome.changes] == CALLS
    assert outcome.changes[5].describe(root) == "rename made/file named"
    assert outcome.changes[7] == Call("unlink", (str(root / "named"),))
    assert tree(root) == {"linked 6"}


COUNTED = [name for name in CALLS if name != "fsync"]


@pytest.mark.parametrize("number", range(1, len(COUNTED) + 1))
def test_a_killed_process_made_what_came_before_and_no_more(number: int, tmp_path: Path, server: ForkServer) -> None:
    (root := tmp_path / "root").mkdir()
    outcome = server.follow(partial(some_changes, root), root, KillAt(number))
    assert outcome.killed
    assert [call.name for call in outcome.changes if call.name != "fsync"] == COUNTED[:number]
    assert tree(root) == AFTER[number - 1]


def errors(root: Path) -> list[str]:
    found = []
    for name in ("a", "b", "c"):
        try:
            (root / name).mkdir()
        except OSError as error:
            found.append(f"{name} {errno.errorcode[error.errno or 0]}")
    return found


def test_a_full_disk_is_what_the_process_hears_of_it(tmp_path: Path, server: ForkServer) -> None:
    assert server.follow(partial(errors, tmp_path), tmp_path, FullFrom(2)).value == ["b ENOSPC", "c ENOSPC"]
    assert tree(tmp_path) == {"a"}
    (tmp_path / "a").rmdir()
    assert server.follow(partial(errors, tmp_path), tmp_path, FullFrom(2, once=True)).value == ["b ENOSPC"]
    assert tree(tmp_path) == {"a", "c"}


def fail() -> None:
    raise ValueError("as it should")


def test_a_work_that_fails_says_so_here(tmp_path: Path, server: ForkServer) -> None:
    for attempt in (partial(server.run, fail), partial(server.follow, fail, tmp_path, KillAt(0))):
        with pytest.raises(AssertionError, match="ValueError: as it should"):
            attempt()


def test_a_machine_that_does_not_permit_tracing_is_reported_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(ptrace._libc, "ptrace", refused)
    with pytest.raises(ptrace.NotPermitted, match=r"ptrace is refused here .* Run them on Linux"):
        follow(fail, tmp_path, KillAt(0))


def test_the_numbers_of_system_calls_are_this_machines() -> None:
    """By the C library's own list, as far as it has them by that name."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    numbers = dict(line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_"))
    known = {name: int(numbers[f"__NR_{name}"]) for name in CHANGES if f"__NR_{name}" in numbers}
    assert len(known) > 40
    assert {name: CHANGES[name][0] for name in known} == known


def test_a_process_that_vanishes_is_no_success(server: ForkServer) -> None:
    with pytest.raises(AssertionError, match="returned nothing"):
        server.run(partial(os._exit, 3))
