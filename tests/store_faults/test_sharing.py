"""Several writers and readers on one volume: one stands still at any of its changes while others go on, and all of them
at once for a while, with kills."""

import os
import random
import shutil
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from neuronmodel_api.report import Result
from neuronmodel_worker.store import SHARDS, LeaseTimings, Store
from tests.store_faults.expected import check_set, check_sets, remains
from tests.store_faults.forking import ForkServer
from tests.store_faults.jobs import Model, clean_up, collect, prepare, unsynced
from tests.store_faults.test_cuts import keys
from tests.store_faults.traced import HoldAt, Outcome
from tests.waiting import PATIENCE_SECONDS

HASTY = LeaseTimings(renew_seconds=0.05, lapse_seconds=0.2, silent_seconds=60, poll_seconds=0.02)

NAMING = frozenset({"rename", "link", "unlink", "unlinkat", "rmdir"})
"""By which others come to see what one does."""


def mark_of(root: Path) -> Path:
    """The file next to a store that exists while a process that works on the store is stopped."""
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


SECONDS = 8.0
SEED = 20_250


@dataclass(frozen=True)
class Arena:
    """One store for several processes until `over` is there; each tells by a line in `log` how a round of it ended."""

    root: Path
    source: Path
    key: str
    over: Path
    log: Path

    def record(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{line}\n")

    def rounds(self) -> Counter[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[0] for line in lines)


def write_and_clean_up(arena: Arena, name: str) -> None:
    """Round after round a model comes, needs the set, reads it, and goes with what nobody else needs."""
    model = Model(arena.root, arena.source, name)
    while not arena.over.exists():
        result = unsynced(partial(prepare, patience=HASTY), model)
        assert isinstance(result, Result), result
        check_set(arena.root / "shards" / arena.key, "shards", model)
        arena.record("found" if result.shards_cache == "Hit" else "built")
        clean_up(model)


def read(arena: Arena, name: str) -> None:
    """Round after round: refer to the set, look for it, and where it is there, read it over and over."""
    model = Model(arena.root, arena.source, name)
    while not arena.over.exists():
        store = Store(arena.root, timings=HASTY)
        store.refer(SHARDS, arena.key, model.owner)
        if found := store.find(SHARDS, arena.key):
            for _ in range(3):
                check_set(found.directory, "shards", model)
            arena.record("read")
        assert not store.quarantined, store.quarantined
        store.unrefer(model.owner)


def start(job: Callable[[Arena, str], None], arena: Arena, name: str) -> int:
    """A process of its own, whose failure is a line in the log."""
    if child := os.fork():
        return child
    try:
        job(arena, name)
        os._exit(0)
    except BaseException:
        arena.record("FAILED " + traceback.format_exc().replace("\n", " | "))
        os._exit(1)


def everybody(arena: Arena, seconds: float) -> list[int]:
    """Two writers and three readers; one of the writers is killed now and then and comes again, or stands still for
    longer than its lease lasts. How often it was. Where nothing was built or read in that time, as on a slow machine
    everybody is killed too soon, it goes on with longer pauses."""
    jobs = {"one": write_and_clean_up, "two": write_and_clean_up, **dict.fromkeys(("a", "b", "c"), read)}
    running = {name: start(job, arena, name) for name, job in jobs.items()}
    chance, kills, stops = random.Random(SEED), 0, 0
    began, pace, end = time.monotonic(), 1.0, time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            time.sleep(pace * chance.uniform(0.02, 0.3))
            name = chance.choice(["one", "two", "a"])
            if chance.random() < 0.3:
                os.kill(running[name], signal.SIGSTOP)
                time.sleep(3 * HASTY.lapse_seconds)
                os.kill(running[name], signal.SIGCONT)
                stops += 1
            else:
                os.kill(running[name], signal.SIGKILL)
                os.waitpid(running[name], 0)
                running[name] = start(jobs[name], arena, name)
                kills += 1
            missed = not (kills and stops and {"built", "read"} <= arena.rounds().keys())
            if missed and end <= time.monotonic() < began + PATIENCE_SECONDS:
                pace, end = 2 * pace, time.monotonic() + seconds
    finally:
        arena.over.touch()
        for child in running.values():
            os.waitpid(child, 0)
    return [kills, stops]


def test_two_writers_and_three_readers_get_one_result_whoever_is_killed_or_stands_still(
    server: ForkServer, source: Path, tmp_path: Path
) -> None:
    shards = keys(server, [Model(tmp_path, source)], tmp_path / "keys")
    (key,) = shards
    (root := tmp_path / "store").mkdir()
    arena = Arena(root, source, key, tmp_path / "over", tmp_path / "log")
    kills, stops = server.run(partial(everybody, arena, SECONDS))
    rounds = arena.rounds()
    failed = [line for line in arena.log.read_text().splitlines() if line.startswith("FAILED")]
    assert not failed, failed[0][-3000:]
    assert min(kills, stops, rounds["built"], rounds["read"]) > 0, (kills, stops, rounds)
    model = Model(root, source, "last")
    assert isinstance(server.run(partial(unsynced, prepare, model)), Result)
    assert ("shards", key) in check_sets(root, shards)
    assert remains(root) == []
    assert not list((root / "quarantine").iterdir())
