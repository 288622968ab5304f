"""Sharding that goes wrong: never a final name on a file that is not whole, never anything left, always a sentence."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neuronmodel_api import exits
from neuronmodel_worker.failures import (
    ArtifactDamaged,
    ArtifactsUnwritable,
    ArtifactsVolumeFull,
    SourceChanged,
    SourceUnreadable,
)
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream import FileSink, Sizes, TensorSink, Transferred, rank_file_name, read_rank_files, run
from tests.paths import PROJECT
from tests.unit.worker.sharding import small_plan, small_source
from tests.volumes import volume_in_memory


@pytest.fixture
def plan(tmp_path: Path) -> StreamedPlan:
    return small_plan(small_source(tmp_path / "source"))


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, less than the shards need."""
    with volume_in_memory(tmp_path / "volume", 65536) as directory:
        yield directory


def weights_file(plan: StreamedPlan) -> Path:
    return plan.checkpoint.files[0].path


def test_a_full_volume_is_noticed_before_the_first_byte(plan: StreamedPlan, small_volume: Path) -> None:
    with pytest.raises(ArtifactsVolumeFull) as failure:
        run(plan, FileSink(small_volume / "weights"))
    assert failure.value.needed_bytes is not None
    assert failure.value.needed_bytes > 65536 >= failure.value.free_bytes
    assert f"{failure.value.needed_bytes:,}" in str(failure.value)
    assert f"{failure.value.free_bytes:,}" in str(failure.value)
    assert failure.value.exit_code == exits.NO_SPACE
    assert list((small_volume / "weights").iterdir()) == []


@pytest.mark.parametrize("successes", [0, 1, 5, 20])
def test_a_volume_that_fills_up_at_any_write_leaves_nothing(
    successes: int, plan: StreamedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, calls = os.pwrite, iter(range(10**6))

    def filling_up(descriptor: int, data: memoryview, position: int) -> int:
        if next(calls) >= successes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", filling_up)
    with pytest.raises(ArtifactsVolumeFull, match="bytes are needed"):
        run(plan, FileSink(tmp_path / "weights"))
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_target_that_cannot_be_written_is_named(plan: StreamedPlan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactsUnwritable, match=str(tmp_path / "file")):
        run(plan, FileSink(tmp_path / "file" / "weights"))


def test_a_source_that_shrinks_before_it_is_read_is_noticed(plan: StreamedPlan, tmp_path: Path) -> None:
    os.truncate(weights_file(plan), 1000)
    with pytest.raises(SourceChanged, match="1,000 bytes") as failure:
        run(plan, FileSink(tmp_path / "weights"))
    assert failure.value.exit_code == exits.SOURCE_CHANGED
    assert not (tmp_path / "weights").exists()


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(plan: StreamedPlan, tmp_path: Path) -> None:
    weights_file(plan).unlink()
    os.mkfifo(weights_file(plan))
    with pytest.raises(SourceChanged, match=str(weights_file(plan))):
        run(plan, FileSink(tmp_path / "weights"))


def change_while_reading(plan: StreamedPlan, weights: Path, change: str) -> None:
    """Shard, and change the source once some of it was read."""
    file = weights_file(plan)
    done: list[bool] = []

    def interfere(so_far: Transferred) -> None:
        if so_far.bytes_read > 5000 and not done:
            done.append(True)
            CHANGES[change](file)

    run(plan, FileSink(weights), interfere, sizes=Sizes(chunk_bytes=4096), threads=1)


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "shrinks": lambda file: os.truncate(file, 9000),
    "grows": lambda file: os.truncate(file, 10**6),
    "is_touched": lambda file: os.utime(file, ns=(1, 1)),
    "is_replaced": replace,
    "vanishes": lambda file: file.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_read_is_noticed(change: str, plan: StreamedPlan, tmp_path: Path) -> None:
    with pytest.raises(SourceChanged, match=str(weights_file(plan))):
        change_while_reading(plan, tmp_path / "weights", change)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_read_error_names_the_file(plan: StreamedPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", failing)
    sink = TensorSink()
    with pytest.raises(SourceUnreadable, match=f"{weights_file(plan)} cannot be read"):
        run(plan, sink)
    assert sink.tensors == []


def test_a_failing_progress_ends_the_run_and_leaves_nothing(plan: StreamedPlan, tmp_path: Path) -> None:
    def interrupted(_: Transferred) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, FileSink(tmp_path / "weights"), interrupted)
    assert not list((tmp_path / "weights").glob("*"))


def test_killed_in_the_middle_nothing_has_a_final_name_and_the_next_run_clears_up(
    plan: StreamedPlan, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    command = [sys.executable, "-m", "tests.unit.worker.sharding", str(plan.checkpoint.path), str(weights)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout
        assert victim.stdout.readline() == b"writing\n"
        run(plan, FileSink(weights))  # alongside a writer that lives: neither harms the other
        alive = [path.name for path in weights.iterdir() if path.name.endswith(".partial")]
        assert len(alive) == 4
        victim.kill()
    for rank in plan.ranks:
        (weights / rank_file_name(rank)).unlink()
    assert sorted(path.name for path in weights.iterdir()) == sorted(alive)
    run(plan, FileSink(weights))
    assert {path.name for path in weights.iterdir()} == {rank_file_name(rank) for rank in plan.ranks}


def flip_last_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: file.unlink(), "No such file"),
    "cut": (lambda file: os.truncate(file, file.stat().st_size - 1), "truncated"),
    "no_header": (lambda file: file.write_bytes(b"\xff" * 100), "header"),
    "flipped": (flip_last_byte, "digest"),
    "swapped": (lambda file: file.write_bytes((file.parent / rank_file_name(2)).read_bytes()), "digest"),
    "another": (lambda file: file.write_bytes(b"\x02\0\0\0\0\0\0\0{}"), "sealed with"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_rank_file_is_not_read(damage: str, plan: StreamedPlan, tmp_path: Path) -> None:
    sealed = {file.name: file for file in run(plan, FileSink(tmp_path)).files}
    inflict, word = DAMAGE[damage]
    inflict(tmp_path / rank_file_name(1))
    with pytest.raises(ArtifactDamaged, match=f"(?s){rank_file_name(1)}.*{word}") as failure:
        read_rank_files(tmp_path, plan.ranks, sealed=sealed, full=True)
    assert failure.value.exit_code == exits.ARTIFACT_DAMAGED


def test_swapped_ranks_are_noticed_without_a_digest(plan: StreamedPlan, tmp_path: Path) -> None:
    run(plan, FileSink(tmp_path))
    DAMAGE["swapped"][0](tmp_path / rank_file_name(1))
    with pytest.raises(ArtifactDamaged, match="holds the tensors of rank 2"):
        read_rank_files(tmp_path, plan.ranks)


def test_progress_counts_every_byte_of_both_sides(plan: StreamedPlan, tmp_path: Path) -> None:
    seen: list[Transferred] = []
    result = run(plan, FileSink(tmp_path), seen.append, sizes=Sizes(chunk_bytes=4096))
    assert seen[-1] == Transferred(result.bytes_read, result.bytes_written)
    assert result.bytes_read == plan.source_bytes
    numbers = 4 * len(plan.rank_tensors) * len(plan.ranks)
    assert result.bytes_written == plan.output_bytes - numbers
    assert result.busy_reading_seconds > 0
    assert result.busy_writing_seconds > 0
