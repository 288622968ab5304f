"""A file on a network, read as a folder's files are."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from neuronmodel_worker.io.aligned import SLACK, Array, fresh
from neuronmodel_worker.sources.remote import remote_file
from neuronmodel_worker.sources.remote.remote_file import RemoteFile

PART = 64
CONTENT = np.random.default_rng(2).integers(0, 256, 4096, np.uint8)


class Server:
    """CONTENT by ranges, in memory of its own that begins `offset` bytes after an aligned address."""

    def __init__(self) -> None:
        self.offset = 0
        self.ranges: list[tuple[int, int]] = []
        self.interrupted = 0

    def read(self, position: int, nbytes: int) -> Array:
        assert 0 < nbytes <= PART
        self.ranges.append((position, nbytes))
        data = fresh(nbytes + self.offset)[self.offset : self.offset + nbytes]
        data[:] = CONTENT[position : position + nbytes]
        data.flags.writeable = False
        return data

    def interrupt(self) -> None:
        self.interrupted += 1


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def file(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteFile]:
    monkeypatch.setattr(remote_file, "PART_BYTES", PART)
    with ThreadPoolExecutor(2) as pool:
        made = RemoteFile(server.read, pool, server.interrupt)
        yield made
        made.close()


@pytest.mark.parametrize("nbytes", [1, PART - 1, PART, PART + 1, 10 * PART, 10 * PART + 7])
@pytest.mark.parametrize("offset", [0, 1, 8, 16])
def test_a_range_of_any_length_is_read_whole(file: RemoteFile, server: Server, nbytes: int, offset: int) -> None:
    server.offset = offset
    found = file.read(33, nbytes, fresh(nbytes + SLACK))
    assert np.array_equal(found, CONTENT[33 : 33 + nbytes])
    assert found.ctypes.data % 16 == 0
    assert sum(count for _, count in server.ranges) == nbytes


def test_aligned_bytes_are_not_copied(file: RemoteFile, server: Server) -> None:
    buffer = fresh(PART + SLACK)
    assert not np.shares_memory(file.read(0, PART, buffer), buffer)
    server.offset = 1
    assert np.shares_memory(file.read(0, PART, buffer), buffer)


def test_a_small_range_is_read_at_once_and_a_large_one_in_parts(file: RemoteFile, server: Server) -> None:
    for nbytes in (5, 1000):
        into = np.empty(nbytes, np.uint8)
        file.read_into(7, into)
        assert np.array_equal(into, CONTENT[7 : 7 + nbytes])
    assert server.ranges[0] == (7, 5)


def test_what_was_prefetched_is_read_once(file: RemoteFile, server: Server) -> None:
    file.prefetch(100, 1000)
    for row in range(10):
        into = np.empty(10, np.uint8)
        file.read_columns(100 + row, 100, 1, into)
        assert np.array_equal(into, CONTENT[100 + row : 1100 : 100][:10])
    file.read_into(100, whole := np.empty(1000, np.uint8))
    assert np.array_equal(whole, CONTENT[100:1100])
    assert sum(count for _, count in server.ranges) == 1000


def test_forgetting_what_was_never_laid_is_nothing(file: RemoteFile) -> None:
    file.forget(0, 4096)
    file.check_unchanged()


def test_an_interrupt_is_that_of_the_source(file: RemoteFile, server: Server) -> None:
    file.interrupt()
    assert server.interrupted == 1
