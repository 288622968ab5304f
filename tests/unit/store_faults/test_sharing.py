"""Several writers and readers on one volume: one stands still at any of its changes while others go on, and all of them
at once for a while, with kills."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from neuronmodel_api.report import Result
from neuronmodel_worker.store import Patience
from tests.unit.store_faults.expected import check_sets, remains
from tests.unit.store_faults.forking import ForkServer
from tests.unit.store_faults.jobs import Model, collect, prepare, unsynced
from tests.unit.store_faults.test_cuts import keys
from tests.unit.store_faults.traced import HoldAt, Outcome

HASTY = Patience(renew_seconds=0.05, lapse_seconds=0.2, silent_seconds=60, poll_seconds=0.02)

NAMING = frozenset({"rename", "link", "unlink", "unlinkat", "rmdir"})
"""By which others come to see what one does."""


def mark_of(root: Path) -> Path:
    """Stands beside a store while a process stands still that works on it."""
    return root.with_name(f"{root.name}-held")


@contextmanager
def held(server: ForkServer, job: Callable[[], object], root: Path, number: int) -> Iterator[Future[Outcome] | None]:
    """The job, standing still before its `number`-th change within the context; None: it has ended before."""
    mark = mark_of(root)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(server.follow, job, root, HoldAt(number, mark, NAMING))
        while not mark.exists() and not future.done():
            time.sleep(0.002)
        try:
            yield future if mark.exists() else None
        finally:
            mark.unlink(missing_ok=True)
            future.result()


def test_a_writer_that_stood_still_while_its_work_was_taken_over_harms_nothing(
    servers: list[ForkServer], source: Path, tmp_path: Path
) -> None:
    shards = keys(servers[0], [Model(tmp_path, source)], tmp_path / "keys")
    (key,) = shards
    number = 0
    while True:
        number += 1
        (root := tmp_path / f"held-{number}").mkdir()
        one = Model(root, source)
        two = replace(one, name="two")
        with held(servers[0], partial(prepare, one, HASTY), root, number) as waiting:
            result = servers[1].run(partial(unsynced, partial(prepare, patience=HASTY), two))
            assert isinstance(result, Result)
            first = check_sets(root, shards)
            inode = first["shards", key].stat().st_ino
        if not waiting:
            break
        assert isinstance(waiting.result().value, Result), waiting.result()
        assert check_sets(root, shards) == first
        assert (root / "shards" / key).stat().st_ino == inode
        assert servers[0].run(partial(unsynced, prepare, one)).cache == "Hit"
        assert remains(root) == []
        shutil.rmtree(root)
    assert number > 10


def test_a_set_that_is_referred_to_never_vanishes_whenever_its_collector_stands_still(
    servers: list[ForkServer], source: Path, tmp_path: Path
) -> None:
    (template := tmp_path / "template").mkdir()
    one = Model(template, source)
    shards = keys(servers[0], [one], tmp_path / "keys")
    (key,) = shards
    result = servers[0].run(partial(unsynced, prepare, one))
    shutil.rmtree(template / "refs")
    number = 0
    while True:
        number += 1
        root = tmp_path / f"collected-{number}"
        shutil.copytree(template, root)
        two = replace(one, root=root, name="two")
        places = [root / "compiled" / result.compiled_key, root / "shards" / key]
        with held(servers[0], partial(collect, two), root, number) as waiting, ThreadPoolExecutor(1) as pool:
            preparing = pool.submit(servers[1].run, partial(unsynced, prepare, two))
            if waiting and not wait([preparing], timeout=0.3).done:  # it knows of the collector, and waits in its turn
                mark_of(root).unlink()
            assert isinstance(preparing.result(), Result)
            with watched(places) as missed:
                mark_of(root).unlink(missing_ok=True)
                if waiting:
                    waiting.result()
        assert not missed, (number, missed)
        assert len(check_sets(root, shards)) == 2
        shutil.rmtree(root)
        if not waiting:
            break
    assert number > 5


@contextmanager
def watched(places: list[Path]) -> Iterator[set[Path]]:
    """Those of the places that were not there for a moment."""
    missed: set[Path] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            missed.update(place for place in places if not place.exists())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield missed
    finally:
        over.set()
        thread.join()
