"""Copies that are made on the way: whole, in bounded memory, without the load's waiting."""

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuronmodel_worker.scratch_cache import TierError
from neuronmodel_worker.scratch_cache.copying import CopiedFile, CopyWriter, Extents, LocalOriginal
from neuronmodel_worker.serve.background import ShuttingDown
from tests.volumes import volume_in_memory

MIB = 1 << 20


def written(path: Path, nbytes: int) -> bytes:
    content = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8).tobytes()
    path.write_bytes(content)
    return content


def seen(content: bytes, start: int, stop: int) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    return np.frombuffer(content[start:stop], np.uint8)


def nothing() -> None: ...


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_extents_know_what_is_missing_in_whatever_order_parts_come(order: tuple[int, ...]) -> None:
    extents, parts = Extents(), [(10, 20), (20, 30), (50, 60), (25, 52)]
    for index in order[:3]:
        extents.add(*parts[index])
    there = {byte for index in order[:3] for byte in range(*parts[index])}
    gaps = {byte for start, stop in extents.gaps(70) for byte in range(start, stop)}
    assert gaps == set(range(70)) - there
    extents.add(*parts[order[3]])
    assert list(extents.gaps(70)) == [(0, 10), (60, 70)]


def test_what_was_seen_is_not_read_again_and_the_rest_is(tmp_path: Path) -> None:
    content = written(tmp_path / "original", 5 * MIB + 77)
    (tmp_path / "copy").mkdir()
    copy = CopyWriter(tmp_path / "copy", {"original": LocalOriginal.at(tmp_path / "original")})
    for start in range(1234, 4 * MIB, 999_983):
        copy.observe("original", start, seen(content, start, min(start + 999_983, 4 * MIB)))
    asked: list[None] = []
    copy.complete(tmp_path / "copy", lambda: asked.append(None))
    assert (tmp_path / "copy/original").read_bytes() == content
    assert len(asked) == 2  # before and after what was seen


def test_pieces_for_which_no_memory_is_free_are_read_later(tmp_path: Path) -> None:
    content = written(tmp_path / "original", 3 * MIB)
    (tmp_path / "copy").mkdir()
    copy = CopyWriter(tmp_path / "copy", {"original": LocalOriginal.at(tmp_path / "original")}, pieces=0)
    copy.observe("original", 0, seen(content, 0, 3 * MIB))
    copy.complete(tmp_path / "copy", nothing)
    assert (tmp_path / "copy/original").read_bytes() == content


def test_a_disk_that_hangs_does_not_hold_up_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(tmp_path / "original", 4 * MIB)
    (tmp_path / "copy").mkdir()
    goes_on, write = threading.Event(), CopiedFile.write

    def hanging(file: CopiedFile, position: int, data: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> None:
        goes_on.wait()
        write(file, position, data)

    monkeypatch.setattr(CopiedFile, "write", hanging)
    copy = CopyWriter(tmp_path / "copy", {"original": LocalOriginal.at(tmp_path / "original")}, pieces=2)
    for start in range(0, 4 * MIB, MIB):
        copy.observe("original", start, seen(content, start, start + MIB))
    assert copy.missing_bytes == 4 * MIB
    goes_on.set()
    copy.complete(tmp_path / "copy", nothing)
    assert (tmp_path / "copy/original").read_bytes() == content


def test_an_original_that_changed_is_no_copy(tmp_path: Path) -> None:
    content = written(tmp_path / "original", MIB)
    (tmp_path / "copy").mkdir()
    copy = CopyWriter(tmp_path / "copy", {"original": LocalOriginal.at(tmp_path / "original")})
    copy.observe("original", 0, seen(content, 0, MIB))
    written(tmp_path / "original", MIB)
    os.utime(tmp_path / "original", ns=(0, 1))  # a clock that ticks every few milliseconds would tell no difference
    with pytest.raises(TierError, match="changed while it was copied"):
        copy.complete(tmp_path / "copy", nothing)


def test_an_original_that_is_gone_is_no_copy_and_not_called_unwritable(tmp_path: Path) -> None:
    written(tmp_path / "original", MIB)
    (tmp_path / "copy").mkdir()
    copy = CopyWriter(tmp_path / "copy", {"original": LocalOriginal.at(tmp_path / "original")})
    (tmp_path / "original").unlink()
    with pytest.raises(TierError, match="No such file") as error:
        copy.complete(tmp_path / "copy", nothing)
    assert error.value.reason == "ScratchTierStale"
    assert not open_below(tmp_path / "copy")


def test_a_volume_that_becomes_full_is_reported(tmp_path: Path) -> None:
    written(tmp_path / "original", 3 * MIB)
    with (
        volume_in_memory(tmp_path / "copy", 2 * MIB) as directory,
        pytest.raises(TierError, match="became full") as error,
    ):
        CopyWriter(directory, {"original": LocalOriginal.at(tmp_path / "original")})
    assert error.value.reason == "ScratchTierFull"


@pytest.mark.parametrize("end", ["abort", "stop"])
def test_a_copy_that_is_given_up_keeps_no_file_open(tmp_path: Path, end: str) -> None:
    content = written(tmp_path / "original", MIB)
    (tmp_path / "copy").mkdir()
    copy = CopyWriter(tmp_path / "copy", {"original": LocalOriginal.at(tmp_path / "original")})
    copy.observe("original", 0, seen(content, 0, MIB // 2))
    if end == "abort":
        copy.abort()
    else:
        with pytest.raises(ShuttingDown):
            copy.complete(tmp_path / "copy", _raising(ShuttingDown()))
    assert not open_below(tmp_path / "copy")
    copy.observe("original", 0, seen(content, 0, MIB))  # a load that still goes on is not affected


def open_below(directory: Path) -> list[Path]:
    paths = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [path for path in paths if path.is_relative_to(directory)]


def _raising(error: Exception) -> Callable[[], None]:
    def wait() -> None:
        raise error

    return wait
