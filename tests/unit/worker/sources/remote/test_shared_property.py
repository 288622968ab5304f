import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from neuronmodel_worker.sources.remote.shared_property import shared_property

THREADS = 8


class Source:
    """What it makes takes as long as it takes all threads to ask."""

    def __init__(self) -> None:
        self.asking = threading.Semaphore(0)
        self.num_made = 0

    @shared_property
    def client(self) -> object:
        self.num_made += 1
        for _ in range(THREADS):
            self.asking.acquire()
        return object()

    @shared_property
    def broken(self) -> object:
        self.num_made += 1
        raise OSError(self.num_made)

    def ask(self) -> object:
        self.asking.release()
        return self.client


def test_threads_that_ask_at_once_get_one() -> None:
    source = Source()
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda _: source.ask(), range(THREADS)))
    assert source.num_made == 1
    assert len(set(map(id, found))) == 1
    assert source.client is found[0]


def test_what_could_not_be_made_is_tried_again() -> None:
    source = Source()
    for number in (1, 2):
        with pytest.raises(OSError, match=str(number)):
            _ = source.broken
