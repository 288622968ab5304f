"""Rank files that are sealed one by one: soon, whole, of a source that stayed the same, and for good."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import header_digest
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsVolumeFull, SourceChanged
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.io.disk import is_in_memory
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream import (
    ContentDigests,
    FileSink,
    Sizes,
    TensorSink,
    Transferred,
    WrittenFile,
    check_rank_file,
    rank_file_name,
    read_rank_files,
    run,
    write_rank_files,
)
from neuronmodel_worker.stream.steps import Step
from tests.unit.worker.sharding import small_plan, small_source
from tests.volumes import volume_in_memory

TRANSPOSING = {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}
ONE_BY_ONE = Sizes(chunk_bytes=5000, seal_bytes=1)
METADATA = {"key": "of a set"}


@pytest.fixture(params=[{}, TRANSPOSING], ids=["plain", "transposing"])
def plan(tmp_path: Path, request: pytest.FixtureRequest) -> StreamedPlan:
    return small_plan(small_source(tmp_path / "source", intermediate_size=512), **request.param)


class Sealing:
    """Seals into a folder and knows what was sealed, and when."""

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.files: dict[str, WrittenFile] = {}
        self.written_before: list[int] = []
        self.written = 0

    def sink(self) -> FileSink:
        return FileSink(self.weights, seal=self.seal, metadata=METADATA)

    def seal(self, rank: int, file: WrittenFile) -> None:
        assert file.name == rank_file_name(rank)
        check_rank_file(self.weights / file.name, file, full=True)
        assert file.header == header_digest(self.weights / file.name)
        self.files[file.name] = file
        self.written_before.append(self.written)

    def reached(self, so_far: Transferred) -> None:
        self.written = so_far.bytes_written


def contents(weights: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in weights.iterdir()}


@pytest.fixture
def expected(plan: StreamedPlan, tmp_path: Path) -> dict[str, bytes]:
    run(plan, FileSink(tmp_path / "expected", metadata=METADATA))
    return contents(tmp_path / "expected")


def test_files_become_complete_over_the_run_and_nothing_is_read_more_often(
    plan: StreamedPlan, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    sealing = Sealing(tmp_path / "weights")
    result = run(plan, sealing.sink(), sealing.reached, sizes=ONE_BY_ONE, threads=1)
    assert contents(sealing.weights) == expected
    assert tuple(sealing.files.values()) == result.files
    assert result.bytes_read == plan.source_bytes
    alone = sealing.written_before[-1] - sealing.written_before[0]
    assert sealing.written_before[0] < 0.7 * result.bytes_written
    steps = [
        later - earlier for earlier, later in zip(sealing.written_before, sealing.written_before[1:], strict=False)
    ]
    assert steps == [alone // 3] * 3


def test_large_groups_are_sealed_together(plan: StreamedPlan, tmp_path: Path) -> None:
    sealing = Sealing(tmp_path / "weights")
    run(plan, sealing.sink(), sealing.reached, sizes=Sizes(seal_bytes=2 * plan.rank_bytes), threads=1)
    first, second, third, fourth = sealing.written_before
    assert second - first < third - second
    assert fourth - third < third - second


def touch(plan: StreamedPlan) -> None:
    os.utime(plan.checkpoint.files[0].path, ns=(1, 1))


def overwrite(plan: StreamedPlan) -> None:
    """Other weights, as a download over the old files would bring."""
    file = plan.checkpoint.files[0]
    with file.path.open("r+b") as stream:
        stream.seek(file.nbytes // 2)
        stream.write(bytes(range(256)) * (file.nbytes // 512))


def interrupt(plan: StreamedPlan) -> None:
    raise KeyboardInterrupt


INTERFERENCES: dict[str, tuple[Callable[[StreamedPlan], None], type[BaseException]]] = {
    "touched": (touch, SourceChanged),
    "overwritten": (overwrite, SourceChanged),
    "interrupted": (interrupt, KeyboardInterrupt),
}


@pytest.mark.parametrize("interference", INTERFERENCES)
@pytest.mark.parametrize("after", [0.0, 0.3, 0.6, 0.8, 0.95])
def test_a_run_that_fails_leaves_the_files_that_were_sealed_and_nothing_else(
    interference: str, after: float, plan: StreamedPlan, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    inflict, failure = INTERFERENCES[interference]
    sealing, done = Sealing(tmp_path / "weights"), threading.Event()

    def reached(so_far: Transferred) -> None:
        if so_far.bytes_read > after * plan.source_bytes and not done.is_set():
            done.set()
            inflict(plan)

    with pytest.raises(failure):
        run(plan, sealing.sink(), reached, sizes=ONE_BY_ONE, threads=1)
    found = contents(sealing.weights)
    assert found.keys() == sealing.files.keys()
    assert found == {name: expected[name] for name in found}
    assert found or after < 0.8
    assert not found or after > 0.3


@pytest.mark.parametrize("successes", [0, 20, 60, 100])
def test_a_volume_that_fills_up_keeps_what_was_sealed(
    successes: int, plan: StreamedPlan, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, calls = os.pwrite, iter(range(10**6))

    def filling_up(descriptor: int, data: memoryview, position: int) -> int:
        if next(calls) >= successes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, position)

    sealing = Sealing(tmp_path / "weights")
    monkeypatch.setattr(os, "pwrite", filling_up)
    with pytest.raises(ArtifactsVolumeFull):
        run(plan, sealing.sink(), sizes=ONE_BY_ONE)
    found = contents(sealing.weights)
    assert found.keys() == sealing.files.keys()
    assert found == {name: expected[name] for name in found}


def test_what_was_left_is_made_by_the_next_run_alone(
    plan: StreamedPlan, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    sealing = Sealing(tmp_path / "weights")
    run(plan, sealing.sink(), rank_indices=[1], sizes=ONE_BY_ONE)
    kept = (sealing.weights / rank_file_name(1)).stat()
    assert list(sealing.files) == [rank_file_name(1)]
    result = run(plan, sealing.sink(), rank_indices=[0, 2, 3], sizes=ONE_BY_ONE)
    assert contents(sealing.weights) == expected
    assert (sealing.weights / rank_file_name(1)).stat() == kept
    assert [file.name for file in result.files] == [rank_file_name(rank) for rank in (0, 2, 3)]


def test_memory_takes_some_ranks_too(plan: StreamedPlan) -> None:
    every, some = TensorSink(), TensorSink()
    run(plan, every)
    run(plan, some, rank_indices=[2])
    assert [bool(rank) for rank in some.tensors] == [False, False, True, False]
    for name, tensor in some.tensors[2].items():
        assert tensor.data.tobytes() == every.tensors[2][name].data.tobytes()


def test_a_seal_that_fails_ends_the_run_and_keeps_the_file(
    plan: StreamedPlan, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    def refuse(rank: int, file: WrittenFile) -> None:
        raise RuntimeError(f"{file.name} is not wanted")

    with pytest.raises(RuntimeError, match="not wanted"):
        run(plan, FileSink(tmp_path / "weights", seal=refuse, metadata=METADATA), sizes=ONE_BY_ONE, threads=1)
    assert contents(tmp_path / "weights") == {name: expected[name] for name in [rank_file_name(0)]}


def test_headers_tell_ranks_and_sets_apart_and_are_of_one_length(plan: StreamedPlan, tmp_path: Path) -> None:
    one = run(plan, FileSink(tmp_path / "one", metadata={"key": "1"})).files
    other = run(plan, FileSink(tmp_path / "other", metadata={"key": "2"})).files
    assert len({file.header for file in (*one, *other)}) == 8
    assert len({file.nbytes for file in (*one, *other)}) == 1


def test_swapped_files_are_found_by_their_headers(plan: StreamedPlan, tmp_path: Path) -> None:
    sealed = {file.name: file for file in run(plan, FileSink(tmp_path)).files}
    first, second = (tmp_path / rank_file_name(rank) for rank in (0, 1))
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(ArtifactDamaged, match=r"tp0.*header"):
        read_rank_files(tmp_path, plan.ranks, sealed=sealed)
    with pytest.raises(ArtifactDamaged, match=r"tp1.*header"):
        check_rank_file(second, sealed[second.name], full=False)


# Rank tensors that are held, written without haste


@pytest.fixture
def held(plan: StreamedPlan) -> TensorSink:
    sink = TensorSink()
    run(plan, sink)
    return sink


def test_held_tensors_are_written_as_the_same_files(
    plan: StreamedPlan, held: TensorSink, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    sealing, seen = Sealing(tmp_path / "weights"), list[Transferred]()
    files = write_rank_files(
        sealing.weights, plan, held.tensors, metadata=METADATA, seal=sealing.seal, progress=seen.append
    )
    assert contents(sealing.weights) == expected
    assert tuple(sealing.files.values()) == files
    assert seen[-1] == Transferred(0, plan.output_bytes)


def test_writing_waits_before_every_piece(
    plan: StreamedPlan, held: TensorSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuronmodel_worker.stream.memory_writer.PIECE_BYTES", 4096)
    written, waits = 0, 0

    def wait() -> None:
        nonlocal waits, written
        waits += 1
        written = 0

    def progress(so_far: Transferred) -> None:
        nonlocal written
        assert written == 0, "two pieces were written without a wait between them"
        written = so_far.bytes_written

    write_rank_files(tmp_path / "weights", plan, held.tensors, wait=wait, progress=progress)
    assert waits >= plan.output_bytes / 4096


@pytest.mark.parametrize("waits", [0, 1, 30, 60])
def test_writing_that_is_stopped_leaves_the_files_that_were_sealed(
    waits: int, plan: StreamedPlan, held: TensorSink, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    left, sealing = iter(range(waits)), Sealing(tmp_path / "weights")

    def wait() -> None:
        if next(left, None) is None:
            raise InterruptedError("the model is going away")

    with pytest.raises(InterruptedError, match="going away"):
        write_rank_files(sealing.weights, plan, held.tensors, metadata=METADATA, seal=sealing.seal, wait=wait)
    found = contents(sealing.weights)
    assert found.keys() == sealing.files.keys()
    assert found == {name: expected[name] for name in found}


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    with volume_in_memory(tmp_path / "volume", 65536) as directory:
        yield directory


def test_writing_held_tensors_needs_room_and_says_how_much(
    plan: StreamedPlan, held: TensorSink, small_volume: Path
) -> None:
    with pytest.raises(ArtifactsVolumeFull) as failure:
        write_rank_files(small_volume / "weights", plan, held.tensors)
    assert failure.value.needed_bytes is not None
    assert failure.value.needed_bytes > plan.output_bytes
    assert list((small_volume / "weights").iterdir()) == []


def test_observers_see_everything_whichever_ranks_are_left(plan: StreamedPlan, tmp_path: Path) -> None:
    observer = ContentDigests()
    result = run(plan, FileSink(tmp_path, seal=lambda rank, file: None), rank_indices=[], observer=observer)
    assert result.files == ()
    assert result.bytes_read == sum(read.source.nbytes for read in plan.reads.values())
    assert observer.pieces().keys() == plan.reads.keys()


def test_small_passes_are_sealed_as_large_ones(plan: StreamedPlan, tmp_path: Path, expected: dict[str, bytes]) -> None:
    sealing = Sealing(tmp_path / "weights")
    sizes = replace(ONE_BY_ONE, held_bytes=3000, wide_bytes=2000)
    result = run(plan, sealing.sink(), sizes=sizes, observer=ContentDigests())
    assert contents(sealing.weights) == expected
    assert result.bytes_read == plan.source_bytes


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    with volume_in_memory(tmp_path / "in-memory", 64 << 20) as directory:
        yield directory


def test_where_there_is_no_drive_rows_are_written_as_they_were_read(
    plan: StreamedPlan, volume: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    put_unchanged = FileSink.put_unchanged

    def watched(self: FileSink, step: Step, rows: Array) -> bool:
        was_taken = put_unchanged(self, step, rows)
        taken.extend([step.target.name] * was_taken)
        return was_taken

    monkeypatch.setattr(FileSink, "put_unchanged", watched)
    sink = FileSink(volume / "weights", metadata=METADATA)
    assert not sink.waits
    run(plan, sink)
    assert contents(volume / "weights") == expected
    of_rows = {target.name for target in plan.targets if not target.transposed and "lm_head" in target.name}
    assert of_rows
    assert of_rows <= set(taken)


def test_a_folder_that_is_not_there_yet_is_on_its_parents_file_system(volume: Path, tmp_path: Path) -> None:
    assert is_in_memory(volume / "missing" / "folder")
    assert is_in_memory(tmp_path / "missing") == is_in_memory(tmp_path)
