"""What a checkpoint holds, by the digests of its bytes: taken on the way, compared later."""

import errno
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.checkpoint import TensorSource, header_digest, open_checkpoint
from neuronmodel_worker.failures import (
    CheckpointFileMissing,
    CheckpointHeaderInvalid,
    CheckpointTruncated,
    SourceChanged,
    SourceUnreadable,
)
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.plan.streamed import Read, StreamedPlan
from neuronmodel_worker.stream import (
    ContentDigests,
    FileSink,
    PieceDigest,
    Sizes,
    TensorSink,
    Transferred,
    check_content,
    content_digests,
    prefetch,
    read_rank_files,
    run,
    source_reader,
    take_missing_digests,
)
from neuronmodel_worker.stream.prefetch import PIECE_BYTES, Prefetcher
from tests.unit.worker.sharding import assert_covered, small_plan, small_source
from tests.waiting import PATIENCE_SECONDS

TRANSPOSING = {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}
SIZES = [Sizes(), Sizes(3000, 4000, 2000), Sizes(3000, 4000, 2000, seal_bytes=1), Sizes(500, 1000, 500, 1)]
Pieces = dict[str, list[PieceDigest]]


@pytest.fixture(params=[{}, TRANSPOSING, {"local_ranks_size": 1, "start_rank_id": 2}], ids=["plain", "passes", "some"])
def plan(tmp_path: Path, request: pytest.FixtureRequest) -> StreamedPlan:
    return small_plan(small_source(tmp_path / "source", files=3), **request.param)


def taken(plan: StreamedPlan, sizes: Sizes | None = None) -> Pieces:
    observer = ContentDigests()
    run(plan, TensorSink(), sizes=sizes, observer=observer)
    return observer.pieces()


@pytest.mark.parametrize("sizes", SIZES)
def test_every_byte_is_shown_once(plan: StreamedPlan, sizes: Sizes, tmp_path: Path) -> None:
    assert_covered(plan, taken(plan, sizes))
    for sink in (FileSink(tmp_path / "one"), FileSink(tmp_path / "other", seal=lambda rank, file: None)):
        observer = ContentDigests()
        run(plan, sink, sizes=sizes, observer=observer)
        assert_covered(plan, observer.pieces())


@pytest.mark.parametrize("flags", [{}, {"fused_qkv": True}, TRANSPOSING])
def test_who_goes_on_reads_what_the_missing_ranks_need_and_knows_the_rest(
    flags: dict[str, Any], tmp_path: Path
) -> None:
    plan = small_plan(small_source(tmp_path / "source"), **flags)
    sizes, before = Sizes(3000, 4000, 2000, seal_bytes=1), ContentDigests()

    def seal(rank: int, file: WrittenFile) -> None:
        noted.update(before.taken_since())
        if rank == 2:
            raise RuntimeError("no further")

    noted: Pieces = {}
    with pytest.raises(RuntimeError, match="no further"):
        run(plan, FileSink(tmp_path / "weights", seal=seal), sizes=sizes, threads=1, observer=before)
    again = ContentDigests(before.pieces())
    sink = FileSink(tmp_path / "others", seal=lambda rank, file: None)
    resumed = run(plan, sink, sizes=sizes, rank_indices=[2, 3], observer=again, observes_unneeded=False)
    alone = run(plan, TensorSink(), sizes=sizes, rank_indices=[2, 3])
    assert resumed.bytes_read <= alone.bytes_read + sum(each.source.nbytes for each in in_passes(plan, flags))
    if not flags:
        assert resumed.bytes_read == alone.bytes_read < plan.source_bytes
    reads = list[Transferred]()
    take_missing_digests(plan.checkpoint, [read.source for read in plan.reads.values()], again, reads.append)
    assert_covered(plan, again.pieces())
    assert sum(read.bytes_read for read in reads[-1:]) < plan.source_bytes // 4


def in_passes(plan: StreamedPlan, flags: dict[str, Any]) -> Iterator[Read]:
    """What is read as a whole, for an observer, where only some columns are needed."""
    yield from (read for read in plan.reads.values() if flags == TRANSPOSING)


@pytest.mark.parametrize(
    ("known", "kept"),
    [
        ([(0, 4), (4, 4)], [(0, 4), (4, 4)]),
        ([(0, 4), (0, 4), (4, 4)], [(0, 4), (4, 4)]),
        ([(0, 3), (0, 4), (3, 2), (4, 4)], [(0, 4), (4, 4)]),
        ([(0, 4), (2, 4), (6, 2)], [(0, 4), (6, 2)]),
        ([(2, 2), (3, 5)], [(2, 2)]),
        ([], []),
    ],
)
def test_of_pieces_that_overlap_some_are_left_out(known: list[tuple[int, int]], kept: list[tuple[int, int]]) -> None:
    digests = ContentDigests({"weight": [(start, nbytes, "") for start, nbytes in known]})
    found = [(start, nbytes) for start, nbytes, _ in digests.pieces().get("weight", [])]
    assert found == kept


def test_sources_of_passes_are_shown_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_reader, "OBSERVED_BYTES", 1000)
    monkeypatch.setattr(prefetch, "OBSERVED_BYTES", 1000)
    monkeypatch.setattr(prefetch, "PIECE_BYTES", 2500)
    plan = small_plan(small_source(tmp_path / "source"), **TRANSPOSING)
    observer = ContentDigests()
    run(plan, FileSink(tmp_path / "weights"), sizes=SIZES[1], observer=observer)
    pieces = observer.pieces()
    assert_covered(plan, pieces)
    assert any([nbytes for _, nbytes, _ in each][:3] == [1000, 1000, 500] for each in pieces.values())


class Refusing:
    def __init__(self, name: str) -> None:
        self.name = name

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        if source.name == self.name:
            raise RuntimeError("no more of this")


@pytest.mark.parametrize("name", ["model.layers.0.mlp.down_proj.weight", "model.norm.weight"])
def test_an_observer_that_fails_ends_the_run(name: str, tmp_path: Path) -> None:
    plan = small_plan(small_source(tmp_path / "source"), **TRANSPOSING)
    with pytest.raises(RuntimeError, match="no more"):
        run(plan, FileSink(tmp_path / "weights"), sizes=SIZES[1], observer=Refusing(name))
    assert list((tmp_path / "weights").iterdir()) == []


class Fetched:
    """A page cache whose reads wait for `gate`, and fail if they are to."""

    piece_bytes = PIECE_BYTES

    def __init__(self, is_observed: bool, failure: Exception | None = None) -> None:
        self.is_observed = is_observed
        self.failure = failure
        self.gate = threading.Semaphore(0)
        self.read: list[str] = []

    def fetch(self, source: TensorSource, start: int, nbytes: int) -> None:
        assert self.gate.acquire(timeout=PATIENCE_SECONDS)
        if self.failure:
            raise self.failure
        self.read.append(source.name)

    def forget(self, source: TensorSource) -> None: ...


@pytest.mark.parametrize("is_observed", [True, False])
def test_what_is_shown_is_fetched_after_its_last_pass_too(is_observed: bool, tmp_path: Path) -> None:
    sources = [read.source for read in small_plan(small_source(tmp_path / "source")).reads.values()][:5]
    cache = Fetched(is_observed)
    fetcher = Prefetcher(cache, lambda: None)
    fetcher.want(sources)
    fetcher.passed(sources)
    threading.Timer(0.05, cache.gate.release, [5]).start()
    fetcher.complete()
    fetcher.close()
    if is_observed:
        assert cache.read == [each.name for each in sources]
    else:
        assert len(cache.read) <= 1


def test_what_goes_wrong_with_fetching_for_an_observer_is_reported(tmp_path: Path) -> None:
    first = next(iter(small_plan(small_source(tmp_path / "source")).reads.values())).source
    cache = Fetched(True, SourceUnreadable(tmp_path, OSError(errno.EIO, "broken")))
    cache.gate.release()
    fetcher = Prefetcher(cache, lambda: None)
    fetcher.want([first])
    with pytest.raises(SourceUnreadable, match="broken"):
        fetcher.complete()
    fetcher.close()


# Comparing


def flip(plan: StreamedPlan, name: str, at: int) -> None:
    """Change one byte of a tensor, and nothing that a look at the file would tell."""
    source = plan.checkpoint.tensors[name]
    with source.file.path.open("r+b") as file:
        file.seek(source.offset + at)
        byte = file.read(1)[0]
        file.seek(source.offset + at)
        file.write(bytes([byte ^ 1]))
    os.utime(source.file.path, ns=(source.file.mtime_ns, source.file.mtime_ns))


def test_the_same_bytes_are_the_same_however_they_were_read(plan: StreamedPlan) -> None:
    for sizes in SIZES:
        seen: list[Transferred] = []
        assert check_content(plan.checkpoint, taken(plan, sizes), plan.reads, seen.append) is None
        assert seen[-1].bytes_read == sum(read.source.nbytes for read in plan.reads.values())
        assert all(earlier.bytes_read <= later.bytes_read for earlier, later in pairwise(seen))


def test_one_changed_byte_of_any_tensor_is_named(plan: StreamedPlan) -> None:
    pieces = taken(plan, Sizes(chunk_bytes=3000))
    for number, (name, read) in enumerate(plan.reads.items()):
        at = (0, read.source.nbytes // 2, read.source.nbytes - 1)[number % 3]
        flip(plan, name, at)
        found = check_content(plan.checkpoint, pieces, plan.reads)
        assert found == f"the content of the tensor {name} of {read.source.file.path.name} differs"
        flip(plan, name, at)
    assert check_content(plan.checkpoint, pieces, plan.reads) is None


def test_of_several_the_first_in_the_files_is_named(plan: StreamedPlan) -> None:
    pieces = taken(plan)
    first, *_, last = sorted(plan.reads.values(), key=lambda each: (each.source.file.path.name, each.source.offset))
    for read in (first, last):
        flip(plan, read.source.name, 0)
    assert first.source.name in (check_content(plan.checkpoint, pieces, plan.reads) or "")
    assert check_content(plan.checkpoint, pieces, plan.reads.keys() - {first.source.name, last.source.name}) is None


def test_pieces_larger_than_what_is_read_at_a_time(plan: StreamedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = taken(plan)
    monkeypatch.setattr(content_digests, "bytes_at_a_time", lambda threads: 700)
    assert check_content(plan.checkpoint, pieces, plan.reads) is None


@pytest.mark.parametrize("wrong", ["none", "hole", "short", "long"])
def test_pieces_that_do_not_fit_are_of_another_tensor(wrong: str, plan: StreamedPlan) -> None:
    pieces = taken(plan, Sizes(chunk_bytes=300))
    name = next(name for name, of_tensor in pieces.items() if len(of_tensor) > 2)
    first, second, *rest = pieces[name]
    pieces[name] = {"none": [], "hole": [first, *rest], "short": [first, second, *rest][:-1]}.get(
        wrong, [first, second, *rest, (rest[-1][0] + rest[-1][1], 1, rest[-1][2])]
    )
    assert f"the tensor {name} of" in (check_content(plan.checkpoint, pieces, [name]) or "")


def test_a_tensor_that_is_not_there_is_named(plan: StreamedPlan) -> None:
    assert check_content(plan.checkpoint, {"more": []}, ["more"]) == "the tensor more is missing"


def test_a_source_that_was_touched_since_is_not_compared(plan: StreamedPlan) -> None:
    pieces = taken(plan)
    file = plan.checkpoint.files[0].path
    os.utime(file, ns=(1, 1))
    with pytest.raises(SourceChanged, match=file.name):
        check_content(plan.checkpoint, pieces, plan.reads)
    assert check_content(open_checkpoint(plan.checkpoint.path), pieces, plan.reads) is None


def test_a_source_that_is_replaced_while_it_is_compared_is_noticed(plan: StreamedPlan) -> None:
    pieces = taken(plan)
    file = plan.checkpoint.files[0].path

    def progress(_: Transferred) -> None:
        os.utime(file, ns=(1, 1))

    with pytest.raises(SourceChanged, match=file.name):
        check_content(plan.checkpoint, pieces, plan.reads, progress)


def test_a_source_that_cannot_be_read_is_named(plan: StreamedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    pieces = taken(plan)
    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        check_content(plan.checkpoint, pieces, plan.reads)


# Rank files on their way


class Copies:
    """Keeps what it sees of files, and in which order."""

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[int, bytes]]] = {}
        self.guard = threading.Lock()

    def observe(self, file_name: str, position: int, data: Array) -> None:
        with self.guard:
            self.parts.setdefault(file_name, []).append((position, data.tobytes()))


@pytest.mark.parametrize("full", [True, False])
def test_rank_files_are_copied_while_they_are_read(
    plan: StreamedPlan, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuronmodel_worker.stream.readback.READ_BYTES", 8192)
    files = run(plan, FileSink(tmp_path)).files
    copies, sealed = Copies(), {file.name: file for file in files}
    read_rank_files(tmp_path, plan.ranks, sealed=sealed, full=full, observer=copies)
    assert copies.parts.keys() == sealed.keys()
    for name, parts in copies.parts.items():
        assert parts[0][0] == 0
        ordered = sorted(parts)
        assert b"".join(data for _, data in ordered) == (tmp_path / name).read_bytes()
        assert all(start + len(data) == after for (start, data), (after, _) in pairwise(ordered))
    assert max(len(parts) for parts in copies.parts.values()) > 3


def test_the_digest_of_a_header_is_of_every_byte_before_the_tensors(plan: StreamedPlan, tmp_path: Path) -> None:
    (file, *_) = run(plan, FileSink(tmp_path)).files
    path = tmp_path / file.name
    assert header_digest(path) == file.header
    whole = path.read_bytes()
    for at in (8, 20, 4095):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        assert header_digest(path) != file.header
    for damage, failure in (
        (b"\xff" * 8, CheckpointHeaderInvalid),
        (whole[:100], CheckpointTruncated),
        (b"", CheckpointTruncated),
    ):
        path.write_bytes(damage)
        with pytest.raises(failure):
            header_digest(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointFileMissing):
        header_digest(path)
