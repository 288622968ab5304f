"""Past the page cache or through it, whole or in part: the same bytes."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from neuronmodel_worker.io import disk
from neuronmodel_worker.io.aligned import SLACK, fresh
from neuronmodel_worker.io.direct_io import EndsEarly, ReadableFile
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream import FileSink, Sizes, rank_file_name, read_rank_files, run
from tests.unit.worker.sharding import small_plan, small_source
from tests.volumes import volume_in_memory

TRANSPOSING = {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}
ROOM = 1 << 16


@pytest.fixture(params=[{}, TRANSPOSING], ids=["plain", "transposing"])
def plan(tmp_path: Path, request: pytest.FixtureRequest) -> StreamedPlan:
    return small_plan(small_source(tmp_path / "source", hidden_size=1024, num_attention_heads=64), **request.param)


def shards(plan: StreamedPlan, weights: Path) -> dict[str, bytes]:
    sealed = {file.name: file for file in run(plan, FileSink(weights), sizes=Sizes(chunk_bytes=50_000)).files}
    read_rank_files(weights, plan.ranks, sealed=sealed, full=True)
    return {path.name: path.read_bytes() for path in weights.iterdir()}


def not_direct(*_: object) -> None:
    return None


def refusing_direct(call: Callable[..., int]) -> Callable[..., int]:
    """As file systems that let a file be opened with O_DIRECT and then refuse every transfer."""

    def refuse(descriptor: int, data: object, position: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return call(descriptor, data, position)

    return refuse


def in_parts(call: Callable[..., int], read: bool) -> Callable[..., int]:
    """As a disk that transfers less than it is asked for, and no whole blocks."""

    def part(descriptor: int, data: object, position: int) -> int:
        view = memoryview(data[0] if read else data).cast("B")[:5000]  # type: ignore[index, arg-type]
        aside = bytearray(view) if not read else bytearray(len(view))
        cached = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY if read else os.O_WRONLY)
        try:
            count = call(cached, [aside] if read else aside, position)
        finally:
            os.close(cached)
        if read:
            view[:count] = aside[:count]
        return count

    return part


def test_without_direct_transfers_the_files_are_the_same(
    plan: StreamedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shards(plan, tmp_path / "direct")
    monkeypatch.setattr("neuronmodel_worker.io.direct_io.open_direct", not_direct)
    monkeypatch.setattr("neuronmodel_worker.stream.filesink.open_direct", not_direct)
    assert shards(plan, tmp_path / "cached") == expected


def test_a_file_system_that_refuses_direct_transfers_late_gets_cached_ones(
    plan: StreamedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shards(plan, tmp_path / "direct")
    monkeypatch.setattr(os, "preadv", refusing_direct(os.preadv))
    monkeypatch.setattr(os, "pwrite", refusing_direct(os.pwrite))
    assert shards(plan, tmp_path / "refused") == expected


@pytest.mark.parametrize("direction", ["read", "write"])
def test_transfers_in_parts_are_gone_on_with(
    plan: StreamedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    expected = shards(plan, tmp_path / "whole")
    name = "preadv" if direction == "read" else "pwrite"
    monkeypatch.setattr(os, name, in_parts(getattr(os, name), direction == "read"))
    assert shards(plan, tmp_path / "parts") == expected


def test_little_that_is_dirty_is_waited_for(
    plan: StreamedPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = shards(plan, tmp_path / "direct")
    waited: list[int] = []
    complete = disk.complete_writeback

    def counted(descriptor: int, position: int, nbytes: int) -> None:
        waited.append(nbytes)
        complete(descriptor, position, nbytes)

    monkeypatch.setattr("neuronmodel_worker.stream.filesink.open_direct", not_direct)
    monkeypatch.setattr("neuronmodel_worker.stream.filesink.Writeback.__init__.__defaults__", (10_000,))
    monkeypatch.setattr("neuronmodel_worker.stream.writeback.complete_writeback", counted)
    assert shards(plan, tmp_path / "cached") == expected
    assert sum(waited) > plan.output_bytes / 2


@pytest.mark.parametrize("position", [0, 1, 4095, 4096, 5000])
@pytest.mark.parametrize("nbytes", [1, 100, 4096, 10_000])
def test_any_range_is_read(tmp_path: Path, position: int, nbytes: int) -> None:
    content = np.random.default_rng(1).integers(0, 256, 20_001, np.uint8)
    (tmp_path / "file").write_bytes(content.tobytes())
    file = ReadableFile(tmp_path / "file")
    assert bytes(file.read(position, nbytes, fresh(nbytes + SLACK))) == content[position : position + nbytes].tobytes()
    with pytest.raises(EndsEarly, match="20,001"):
        file.read(20_001 - nbytes + 1, nbytes, fresh(nbytes + SLACK))
    file.close()


def test_shards_on_a_file_system_in_memory(plan: StreamedPlan, tmp_path: Path) -> None:
    expected = shards(plan, tmp_path / "disk")
    with volume_in_memory(tmp_path / "volume", 64 << 20) as volume:
        assert shards(plan, volume / "weights") == expected


def test_room_is_promised_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / rank_file_name(0)
    with path.open("wb") as file:
        disk.allocate(file.fileno(), ROOM)
        assert os.fstat(file.fileno()).st_size == ROOM
        assert os.fstat(file.fileno()).st_blocks * 512 >= ROOM
        with pytest.raises(OSError, match=r"space|large"):
            disk.allocate(file.fileno(), 1 << 50)
        monkeypatch.setattr(disk, "_supported", lambda _: False)
        disk.allocate(file.fileno(), 2 * ROOM)
        assert os.fstat(file.fileno()).st_size == 2 * ROOM
