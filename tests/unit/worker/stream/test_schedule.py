"""The order of work: nothing read twice, nothing shared by two tasks, memory known beforehand and kept to."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neuronmodel_worker.checkpoint import TensorSource
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.layouts.geometry import as_matrix
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream import ContentDigests, FileSink, Sizes, TensorSink, buffer_bytes, run
from neuronmodel_worker.stream.buffers import GRAIN, Buffers, buffer_size, total_bytes
from neuronmodel_worker.stream.prefetch import PIECE_BYTES, Prefetcher
from neuronmodel_worker.stream.rank_groups import tied_groups
from neuronmodel_worker.stream.schedule import Chunk, Task, Workload, tasks
from neuronmodel_worker.stream.steps import units
from neuronmodel_worker.stream.task_queue import TaskQueue
from tests.unit.worker.sharding import small_plan, small_source
from tests.waiting import PATIENCE_SECONDS, until

TRANSPOSING = {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}
SIZES = [Sizes(), Sizes(chunk_bytes=3000, held_bytes=4000, wide_bytes=2000), Sizes(1, 1, 1)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", tie_word_embeddings=True)


@pytest.fixture(params=[{}, TRANSPOSING], ids=["plain", "transposing"])
def plan(source: Path, request: pytest.FixtureRequest) -> StreamedPlan:
    return small_plan(source, **request.param)


def work(plan: StreamedPlan, sizes: Sizes, buffered: bool = True) -> Workload:
    return Workload(plan, sizes, range(len(plan.ranks)), buffered)


def chunks(task: Task) -> Iterator[Chunk]:
    return (visit.chunk for move in task.moves for visit in move.visits)


def touched_by(work: Workload) -> dict[str, NDArray[Any]]:
    """How many chunks, each counted once a task, every element of every source is in."""
    touched = {
        name: np.zeros(read.source.shape, int).reshape(as_matrix(read.source.shape))
        for name, read in work.plan.reads.items()
    }
    for task in (task for unit in tasks(work) for task in unit):
        for chunk in {each.key: each for each in chunks(task)}.values():
            rows, columns = slice(chunk.row, chunk.row + chunk.rows), slice(chunk.column, chunk.column + chunk.columns)
            touched[chunk.source.name][rows, columns] += 1
    return touched


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_every_element_is_in_one_chunk_and_every_chunk_in_one_task(
    plan: StreamedPlan, sizes: Sizes, buffered: bool
) -> None:
    assert all((counts == 1).all() for counts in touched_by(work(plan, sizes, buffered)).values())


@pytest.mark.parametrize("sealing", [True, False])
@pytest.mark.parametrize("ranks", [[], [1], [0, 2], [0, 1, 3], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("sizes", SIZES)
def test_no_element_is_in_two_chunks_whichever_ranks_are_made(
    plan: StreamedPlan, sizes: Sizes, ranks: list[int], sealing: bool
) -> None:
    sizes = replace(sizes, seal_bytes=1)
    needed = touched_by(Workload(plan, sizes, ranks, sealing=sealing))
    shown = touched_by(Workload(plan, sizes, ranks, sealing=sealing, observed=True))
    in_passes = {
        source.name
        for unit in tasks(Workload(plan, sizes, ranks, sealing=sealing))
        for task in unit
        for source in task.passes_over
    }
    for name, counts in needed.items():
        assert (counts <= 1).all()
        assert (shown[name] == (counts if name in in_passes else 1)).all()


def wants(work: Workload) -> Iterator[tuple[int, set[int], Task]]:
    for task in (task for unit in tasks(work) for task in unit):
        yield task.order, {step.rank_index for move in task.moves for step in move.steps}, task


def test_what_ranks_share_comes_before_what_one_alone_needs(plan: StreamedPlan) -> None:
    found = list(wants(Workload(plan, Sizes(chunk_bytes=3000, seal_bytes=1), range(4), sealing=True)))
    assert [order for order, _, _ in found] == sorted(order for order, _, _ in found)
    alone = {order: ranks for order, ranks, _ in found if order}
    assert alone == {1: {0}, 2: {1}, 3: {2}, 4: {3}}
    nbytes = [sum(task.nbytes for order, _, task in found if order == number) for number in range(5)]
    assert nbytes[1] == nbytes[2] == nbytes[3] == nbytes[4] > 0
    assert nbytes[0] == sum(target.nbytes * 4 for target in plan.targets) - sum(nbytes[1:])


def test_ranks_are_grouped_by_what_is_sealed_at_a_time(plan: StreamedPlan) -> None:
    def groups(seal_bytes: int) -> list[list[int]]:
        work = Workload(plan, Sizes(seal_bytes=seal_bytes), [0, 2, 3], sealing=True)
        return [list(group) for group in work.groups]

    assert groups(0) == groups(1) == groups(2 * plan.rank_bytes - 1) == [[0], [2], [3]]
    assert groups(2 * plan.rank_bytes) == [[0, 2], [3]]
    assert groups(3 * plan.rank_bytes) == [[0, 2, 3]]


def test_heads_that_some_ranks_share_are_read_once_and_tie_these_alone(tmp_path: Path) -> None:
    source = small_source(tmp_path / "shared", num_attention_heads=8, num_key_value_heads=2, head_dim=8)
    plan = small_plan(source, tp_degree=8, fused_qkv=True)
    work = Workload(plan, Sizes(seal_bytes=1), range(8), sealing=True)
    assert all((counts == 1).all() for counts in touched_by(work).values())
    (unit, *_) = (unit for unit in units(plan) if any("q_proj" in part.source.name for part in unit[0].parts()))
    assert tied_groups(unit, work.groups, work.sizes) == set(range(8))
    assert tied_groups(unit, [[0, 1, 2, 3], [4, 5, 6, 7]], work.sizes) == set()
    assert tied_groups(unit, [[0, 1], [2, 3], [4, 5, 6, 7]], work.sizes) == {0, 1}


@pytest.mark.parametrize("sizes", SIZES)
def test_a_tensor_of_a_rank_is_made_by_one_task_from_its_first_byte_to_its_last(
    plan: StreamedPlan, sizes: Sizes
) -> None:
    makers: dict[tuple[str, int], set[int]] = {}
    made: Counter[tuple[str, int]] = Counter()
    for number, task in enumerate(task for unit in tasks(work(plan, sizes)) for task in unit):
        for step in (step for move in task.moves for step in move.steps):
            key = (step.target.name, step.rank_index)
            makers.setdefault(key, set()).add(number)
            assert step.start == made[key]
            made[key] += step.nbytes
    assert all(len(numbers) == 1 for numbers in makers.values())
    assert made == {(t.name, rank): t.nbytes for t in plan.targets for rank in range(len(plan.ranks))}


def test_a_chunk_is_let_go_after_its_last_use(plan: StreamedPlan) -> None:
    for task in (task for unit in tasks(work(plan, Sizes(3000, 4000))) for task in unit):
        last = [visit.chunk.key for move in task.moves for visit in move.visits if visit.last]
        assert sorted(last) == sorted({chunk.key for chunk in chunks(task)})
        seen: list[tuple[str, int, int]] = []
        for visit in (visit for move in task.moves for visit in move.visits):
            assert visit.chunk.key not in seen
            if visit.last:
                seen.append(visit.chunk.key)


class Watched(Buffers):
    """Knows the most that all buffers took up, and how many are lent."""

    most = num_lent = 0

    def take(self, nbytes: int) -> Array:
        buffer = super().take(nbytes)
        with self._lock:
            self.num_lent += 1
            self.most = max(self.most, self.allocated_bytes)
        return buffer

    def give(self, buffer: Array) -> None:
        super().give(buffer)
        with self._lock:
            self.num_lent -= 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The buffers of all runs."""
    made: list[Watched] = []

    def make(limit_bytes: int) -> Watched:
        made.append(Watched(limit_bytes))
        return made[-1]

    monkeypatch.setattr(sys.modules["neuronmodel_worker.stream.execution"], "Buffers", make)
    return made


@pytest.mark.parametrize("into_memory", [False, True])
@pytest.mark.parametrize("threads", [1, 3, 64])
def test_the_buffers_of_a_run_are_predicted(
    plan: StreamedPlan, tmp_path: Path, watched: list[Watched], threads: int, into_memory: bool
) -> None:
    """However small frames are, of which a run then has many at a time."""
    sizes = Sizes(chunk_bytes=3000, held_bytes=4000, wide_bytes=2000, memory_bytes=100 * GRAIN)
    run(plan, TensorSink() if into_memory else FileSink(tmp_path / "weights"), threads=threads, sizes=sizes)
    assert 0 < watched[0].most <= buffer_bytes(plan, threads=threads, sizes=sizes, into_memory=into_memory)
    assert watched[0].num_lent == 0


@pytest.mark.parametrize("ranks", [None, [0, 2], [3]], ids=str)
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_buffers_of_a_run_that_seals_are_predicted(
    plan: StreamedPlan, tmp_path: Path, watched: list[Watched], threads: int, observed: bool, ranks: list[int] | None
) -> None:
    sizes = Sizes(chunk_bytes=3000, held_bytes=4000, wide_bytes=2000, seal_bytes=1)
    sink = FileSink(tmp_path / "weights", seal=lambda rank, file: None)
    observer = ContentDigests() if observed else None
    run(plan, sink, threads=threads, sizes=sizes, rank_indices=ranks, observer=observer)
    predicted = buffer_bytes(plan, threads=threads, sizes=sizes, rank_indices=ranks, sealing=True, observed=observed)
    assert 0 < watched[0].most <= predicted
    assert watched[0].num_lent == 0


def test_a_run_of_no_rank_takes_no_buffers(plan: StreamedPlan) -> None:
    assert buffer_bytes(plan, rank_indices=[]) == 0


def test_memory_bounds_what_is_under_way(plan: StreamedPlan) -> None:
    everything = [task for unit in tasks(work(plan, Sizes(1 << 15, 1 << 15, 1 << 15))) for task in unit]
    limit = max(task.memory_bytes for task in everything) + 1
    queue = TaskQueue(iter([everything]), limit, 8, PageCacheOfTest(always=True))
    takers = [Taker(queue) for _ in everything]
    until(lambda: any(taker.task for taker in takers), "the first task to be taken")
    under_way = [taker.task for taker in takers if taker.task]
    assert 0 < sum(task.memory_bytes for task in under_way) <= limit
    assert len(under_way) < len(everything)
    for task in under_way:
        queue.done(task)
    until(lambda: sum(1 for taker in takers if taker.task) > len(under_way), "the memory that became free to be taken")
    queue.end()
    assert queue.take() is None


def test_what_never_fits_is_done_alone(source: Path) -> None:
    everything = [task for unit in tasks(work(small_plan(source), Sizes())) for task in unit]
    queue = TaskQueue(iter([everything]), 1, 4, PageCacheOfTest(always=True))
    first = queue.take()
    assert first is not None
    second = Taker(queue)
    assert second.task is None
    queue.done(first)
    assert second.got_one()
    queue.end()


class Taker(threading.Thread):
    """A thread that takes one task, and waits for it where it has to."""

    def __init__(self, queue: TaskQueue) -> None:
        super().__init__(daemon=True)
        self.queue = queue
        self.task: Task | None = None
        self.start()
        self.join(0.05)

    def run(self) -> None:
        self.task = self.queue.take()

    def got_one(self) -> bool:
        self.join(PATIENCE_SECONDS)
        return self.task is not None


class PageCacheOfTest:
    """Knows what was asked of it; holds back what is fetched until `gate` lets it."""

    is_observed = False
    piece_bytes = PIECE_BYTES

    def __init__(self, always: bool = False) -> None:
        self.always = always
        self.fetched: list[str] = []
        self.forgotten: list[str] = []
        self.gate = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def fetch(self, source: TensorSource, start: int, nbytes: int) -> None:
        if start == 0:
            self.begun.release()
            assert self.always or self.gate.acquire(timeout=PATIENCE_SECONDS)
            self.fetched.append(source.name)

    def forget(self, source: TensorSource) -> None:
        self.forgotten.append(source.name)


def test_passes_wait_for_the_page_cache_while_there_is_something_else(source: Path) -> None:
    everything = [task for unit in tasks(work(small_plan(source, **TRANSPOSING), SIZES[1])) for task in unit]
    passes = [task for task in everything if task.passes_over]
    assert passes
    cache = PageCacheOfTest()
    queue = TaskQueue(iter([everything]), 1 << 40, 4, cache)
    others = len(everything) - len(passes)
    first = [queue.take() for _ in range(others)]
    assert not any(task.passes_over for task in first if task)
    rest = [queue.take() for _ in passes]  # nothing else is left: they need not wait
    assert all(task and task.passes_over for task in rest)
    for task in rest:
        assert task
        queue.done(task)
    cache.gate.release()  # for the source that the thread may be at: it is forgotten when it was fetched
    named = sorted({source.name for task in passes for source in task.passes_over})
    until(lambda: sorted(cache.forgotten) == named)
    for _ in range(100):
        cache.gate.release()
    queue.end()


def test_at_most_half_of_the_threads_are_at_passes(source: Path) -> None:
    everything = [task for unit in tasks(work(small_plan(source, **TRANSPOSING), SIZES[1])) for task in unit]
    cache, there = PageCacheOfTest(always=True), threading.Event()
    queue = TaskQueue(iter([everything]), 1 << 40, 4, cache)
    queue._prefetcher._fetched = there.set
    others = sum(not task.passes_over for task in everything)
    taken = [queue.take()]
    assert there.wait(PATIENCE_SECONDS)
    taken += [queue.take() for _ in range(others)]
    assert sum(bool(task and task.passes_over) for task in taken) in (1, 2)
    queue.end()


def test_two_sources_are_fetched_ahead_and_forgotten_after_their_last_pass(source: Path) -> None:
    sources = [read.source for read in small_plan(source).reads.values()][:4]
    cache, there = PageCacheOfTest(), threading.Semaphore(0)
    fetcher = Prefetcher(cache, there.release)
    for _ in range(2):
        for each in sources:
            fetcher.want([each])
    for _ in range(10):
        cache.gate.release()
    assert there.acquire(timeout=PATIENCE_SECONDS)
    assert there.acquire(timeout=PATIENCE_SECONDS)
    assert not there.acquire(timeout=0.2)
    assert cache.fetched == [each.name for each in sources[:2]]
    assert fetcher.has(sources[:2])
    assert not fetcher.has(sources[:3])
    fetcher.passed([sources[0]])
    assert cache.forgotten == []
    fetcher.passed([sources[0]])
    assert cache.forgotten == [sources[0].name]
    assert there.acquire(timeout=PATIENCE_SECONDS)
    assert cache.fetched == [each.name for each in sources[:3]]
    fetcher.close()


def test_a_source_that_comes_after_its_last_pass_is_forgotten_and_keeps_no_other_out(source: Path) -> None:
    first, *others = [read.source for read in small_plan(source).reads.values()][:3]
    cache, there = PageCacheOfTest(), threading.Semaphore(0)
    fetcher = Prefetcher(cache, there.release)
    fetcher.want([first])
    assert cache.begun.acquire(timeout=PATIENCE_SECONDS)
    fetcher.passed([first])
    cache.forgotten.clear()
    for _ in range(3):
        cache.gate.release()
    assert there.acquire(timeout=PATIENCE_SECONDS)
    assert cache.forgotten == [first.name]
    for each in others:
        fetcher.want([each])
        assert there.acquire(timeout=PATIENCE_SECONDS)
    assert fetcher.has(others)
    fetcher.close()


def test_buffers_begin_on_blocks_and_are_used_again() -> None:
    buffers = Buffers(4 * GRAIN)
    one, other = buffers.take(1000), buffers.take(GRAIN)
    for buffer in (one, other):
        assert buffer.ctypes.data % 4096 == 0
    address = one.ctypes.data
    buffers.give(one)
    assert buffers.take(5).ctypes.data == address
    three = buffers.take(3 * GRAIN)
    assert three.nbytes >= 3 * GRAIN
    assert not any(np.shares_memory(a, b) for a, b in combinations([one, other, three], 2))


@given(limit=st.integers(1, 40), random=st.randoms(use_true_random=False))
def test_buffers_stay_within_what_is_said_whatever_is_asked_for_within_the_limit(limit: int, random: Random) -> None:
    buffers, lent = Buffers(limit * GRAIN), dict[int, tuple[Array, int]]()
    for number in range(200):
        nbytes = random.randint(0, limit * GRAIN)
        if sum(asked for _, asked in lent.values()) + buffer_size(nbytes) <= limit * GRAIN:
            lent[number] = buffers.take(nbytes), buffer_size(nbytes)
        elif lent:
            buffers.give(lent.pop(random.choice(list(lent)))[0])
        assert buffers.allocated_bytes <= total_bytes(limit * GRAIN)


def test_buffers_that_are_free_make_room_for_one_that_fits() -> None:
    buffers = Buffers(4 * GRAIN)
    for buffer in [buffers.take(GRAIN) for _ in range(4)]:
        buffers.give(buffer)
    buffers.give(buffers.take(4 * GRAIN))
    assert buffers._allocated <= 4 * GRAIN
