"""How many threads read, and how much memory they have."""

import pytest

from neuronmodel_worker.io import readers
from neuronmodel_worker.io.readers import READERS_BYTES, bytes_at_a_time, readers_of_each, reading_threads
from neuronmodel_worker.stream import Sizes, execution, most_streaming_threads, streaming_threads


@pytest.mark.parametrize(
    ("processors", "streaming", "in_memory", "reading"),
    [(1, 4, 1, 4), (2, 4, 2, 4), (16, 32, 16, 16), (192, 40, 40, 192)],
)
def test_threads_follow_the_processors_as_far_as_memory_goes(
    processors: int, streaming: int, in_memory: int, reading: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (readers, execution):
        monkeypatch.setattr(module, "usable_processors", lambda: processors)
    assert (streaming_threads(), streaming_threads(waiting=False), reading_threads()) == (streaming, in_memory, reading)
    assert streaming_threads() <= most_streaming_threads()


def test_more_memory_is_for_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "usable_processors", lambda: 192)
    assert streaming_threads(Sizes(memory_bytes=4 << 30)) == 256


@pytest.mark.parametrize("threads", [1, 4, 16, 17, 64, 192, 256])
def test_readers_share_memory_that_does_not_grow_with_them(threads: int) -> None:
    assert threads * bytes_at_a_time(threads) <= READERS_BYTES
    assert bytes_at_a_time(threads) % (1 << 20) == 0


@pytest.mark.parametrize(("threads", "files", "each"), [(192, 64, 3), (4, 64, 1), (16, 1, 16), (8, 3, 3), (4, 0, 4)])
def test_few_files_are_read_by_all_threads_too(threads: int, files: int, each: int) -> None:
    assert readers_of_each(threads, files).threads == each
