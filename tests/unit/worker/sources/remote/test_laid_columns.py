"""Ranges that are laid in a temporary file: each read once, whoever asks, and gone when they are not needed."""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from neuronmodel_api import exits
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import BLOCK
from neuronmodel_worker.sources.remote.laid_columns import LaidColumns
from neuronmodel_worker.sources.remote.refusals import NoRoomForColumns
from tests.waiting import until

PART = 1000
CONTENT = np.random.default_rng(1).integers(0, 256, 40 * BLOCK, np.uint8)


class Reads:
    """Reads of CONTENT. `gate` holds them up while it is not set; ranges in `failing` fail so often."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.failing: dict[int, int] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.num_begun = 0

    def __call__(self, position: int, nbytes: int) -> Array:
        self.num_begun += 1
        self.gate.wait()
        if self.failing.get(position, 0):
            self.failing[position] -= 1
            raise ConnectionError(f"at {position}")
        self.ranges.append((position, nbytes))
        return CONTENT[position : position + nbytes]


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


@pytest.fixture
def columns(reads: Reads, pool: ThreadPoolExecutor) -> Iterator[LaidColumns]:
    made = LaidColumns(reads, PART, pool)
    yield made
    reads.gate.set()
    made.close()


def bytes_read(reads: Reads) -> int:
    return sum(nbytes for _, nbytes in reads.ranges)


def test_a_range_is_read_in_parts_and_once(columns: LaidColumns, reads: Reads) -> None:
    for _ in range(2):
        into = np.empty(3500, np.uint8)
        columns.read_into(100, into)
        assert np.array_equal(into, CONTENT[100:3600])
    assert sorted(reads.ranges) == [(100, 1000), (1100, 1000), (2100, 1000), (3100, 500)]


def test_only_what_is_missing_between_ranges_is_read(columns: LaidColumns, reads: Reads) -> None:
    columns.lay(1000, 1200)
    columns.lay(1500, 1600)
    columns.lay(900, 1800)
    assert sorted(reads.ranges) == [(900, 100), (1000, 200), (1200, 300), (1500, 100), (1600, 200)]


def test_columns_are_those_of_every_row(columns: LaidColumns, reads: Reads) -> None:
    into = np.empty(20 * 30, np.uint8)
    columns.read_columns(50, 300, 30, into)
    expected = np.concatenate([CONTENT[50 + row * 300 :][:30] for row in range(20)])
    assert np.array_equal(into, expected)
    assert bytes_read(reads) == 19 * 300 + 30


def test_many_threads_read_every_byte_once(columns: LaidColumns, reads: Reads) -> None:
    end = 30 * PART

    def pass_over(column: int) -> None:
        into = np.empty(30 * 10, np.uint8)
        columns.read_columns(column * 10, PART, 10, into)
        assert np.array_equal(into, CONTENT[:end].reshape(30, PART)[:, column * 10 : column * 10 + 10].ravel())

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(pass_over, range(PART // 10)))
    assert bytes_read(reads) == end
    assert sorted(reads.ranges)[0][0] == 0


def test_what_is_under_way_is_waited_for_and_not_read_again(columns: LaidColumns, reads: Reads) -> None:
    reads.gate.clear()
    columns.begin(0, PART)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(columns.lay, 0, PART)
        until(lambda: reads.num_begun == 1)
        assert not waiting.done()
        reads.gate.set()
        waiting.result()
    assert reads.ranges == [(0, PART)]


def test_what_failed_is_read_again_and_nothing_else(columns: LaidColumns, reads: Reads) -> None:
    reads.failing[PART] = 1
    with pytest.raises(ConnectionError, match="at 1000"):
        columns.lay(0, 3 * PART)
    columns.lay(0, 3 * PART)
    assert sorted(reads.ranges) == [(0, PART), (PART, PART), (2 * PART, PART)]


def test_a_prefetch_that_failed_fails_who_reads_and_is_then_read_again(columns: LaidColumns, reads: Reads) -> None:
    reads.failing[0] = 1
    (begun,) = columns.begin(0, PART)
    until(begun.done)
    into = np.empty(PART, np.uint8)
    with pytest.raises(ConnectionError):
        columns.read_into(0, into)
    columns.read_into(0, into)
    assert np.array_equal(into, CONTENT[:PART])


def room(columns: LaidColumns) -> int:
    return os.fstat(columns._file.fileno()).st_blocks * 512


def test_what_is_forgotten_gives_its_room_back_and_is_read_again(columns: LaidColumns, reads: Reads) -> None:
    columns.lay(0, 32 * BLOCK)
    before, first = room(columns), 4 * BLOCK
    columns.forget(first, 16 * BLOCK)
    num_whole = len([start for start, nbytes in reads.ranges if first <= start and start + nbytes <= 20 * BLOCK])
    if room(columns) == before:
        pytest.skip("the temporary folder's file system cannot give room back")
    assert before - 16 * BLOCK <= room(columns) <= before - 13 * BLOCK  # parts across an end of the range stay
    already = len(reads.ranges)
    columns.lay(first, 20 * BLOCK)
    assert len(reads.ranges) > already
    assert num_whole


def test_neighbours_of_what_is_forgotten_stay(columns: LaidColumns, reads: Reads) -> None:
    for start, end in ((0, 10_000), (10_000, 30_000), (30_000, 40_000)):
        columns.lay(start, end)
    columns.forget(10_000, 20_000)
    read = bytes_read(reads)
    for start, end in ((0, 10_000), (30_000, 40_000)):
        into = np.empty(end - start, np.uint8)
        columns.read_into(start, into)
        assert np.array_equal(into, CONTENT[start:end])
    assert bytes_read(reads) == read


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_volume_is_named_with_what_to_do(
    columns: LaidColumns, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoRoomForColumns, match=r"no room for 1,000 more bytes .* set TMPDIR") as failure:
        columns.lay(0, PART)
    assert failure.value.exit_code == exits.NO_SPACE


def test_other_errors_of_the_volume_are_raised(columns: LaidColumns, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(OSError, match="Input/output error"):
        columns.lay(0, PART)


def test_short_writes_and_reads_are_continued(columns: LaidColumns, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:7], at))
    monkeypatch.setattr(os, "preadv", lambda file, views, at: preadv(file, [view[:11] for view in views], at))
    into = np.empty(PART, np.uint8)
    columns.read_into(3, into)
    assert np.array_equal(into, CONTENT[3 : 3 + PART])


def test_close_waits_for_a_read_that_is_under_way(reads: Reads) -> None:
    with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as threads:
        columns = LaidColumns(reads, PART, pool)
        reads.gate.clear()
        running, *waiting = columns.begin(0, 3 * PART)
        until(lambda: reads.num_begun == 1)
        closed = threads.submit(columns.close)
        until(lambda: all(each.cancelled() for each in waiting), "what had not begun")
        assert not closed.done()
        reads.gate.set()
        closed.result()
        assert running.exception() is None
    assert reads.ranges == [(0, PART)]


def test_a_range_that_is_given_back_while_it_is_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole in the file reads as zeros, which must not pass for what lay there."""
    source = np.arange(1, 3 * 4096 + 1, dtype=np.uint32).view(np.uint8)
    with ThreadPoolExecutor(1) as pool:
        laid = LaidColumns(lambda position, nbytes: source[position : position + nbytes], 4096, pool)
        into, preadv, done = np.empty(source.nbytes, np.uint8), os.preadv, list[int]()

        def after_forgetting(descriptor: int, views: list[memoryview], position: int) -> int:
            if not done:
                done.append(position)
                laid.forget(0, source.nbytes)
            return preadv(descriptor, views, position)

        monkeypatch.setattr(os, "preadv", after_forgetting)
        laid.read_into(0, into)
        laid.close()
    assert np.array_equal(into, source)
