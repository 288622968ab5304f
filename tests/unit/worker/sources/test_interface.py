"""What reads a checkpoint knows its source alone: one whose files are in no folder gives the same shards."""

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_worker.checkpoint import Checkpoint, open_checkpoint
from neuronmodel_worker.failures import CheckpointFileMissing, SourceChanged, SourceNotFound
from neuronmodel_worker.io.aligned import Array
from neuronmodel_worker.plan.streamed import make_plan
from neuronmodel_worker.sources import FileStat, SourceFile, WeightSource
from neuronmodel_worker.store.source_records import file_stats
from neuronmodel_worker.stream import ContentDigests, FileSink, Sizes, check_content, run, take_digests
from tests.unit.worker.sharding import small_source

TRANSPOSING = {"fused_qkv": True, "qkv_kernel_enabled": True, "mlp_kernel_enabled": True}
NOWHERE = Path("no-folder", "model")


class Stored:
    """A WeightSource whose files are bytes. Versions count up when one is replaced."""

    is_local = False
    is_in_memory = False
    resolution = None
    parallel_reads = 3
    warnings = ()
    buffer_bytes = 0

    def __init__(self, folder: Path) -> None:
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.versions = dict.fromkeys(self.files, 1)
        self.directory = NOWHERE
        self.open_files = 0

    def folder(self) -> Path:
        return self.directory

    def require(self) -> None:
        if not self.files:
            raise SourceNotFound(self.directory)

    def names(self, most: int) -> frozenset[str]:
        return frozenset(list(self.files)[:most])

    def path(self, name: str) -> Path:
        return self.directory / name

    def exists(self, name: str) -> bool:
        return name in self.files

    def is_file(self, name: str) -> bool:
        return name in self.files

    def refuse_broken_link(self, name: str) -> None:
        """There are no links."""

    def read_ahead(self, names: Iterable[str]) -> None:
        """Everything is at hand."""

    @contextmanager
    def stream(self, name: str) -> Iterator["StoredStream"]:
        if name not in self.files:
            raise FileNotFoundError(name)
        yield StoredStream(self.files[name], self.versions[name])

    def open(self, file: SourceFile) -> "StoredFile":
        self.stat(file)
        self.open_files += 1
        return StoredFile(self, file)

    def stat(self, file: SourceFile) -> FileStat:
        name = file.path.name
        if self.versions[name] != file.mtime_ns:
            raise SourceChanged(file.path, "it is another version")
        return FileStat(nbytes=len(self.files[name]), mtime_ns=file.mtime_ns, ctime_ns=0, inode=0)

    def replace(self, name: str) -> None:
        self.versions[name] += 1


class StoredStream(io.BytesIO):
    content_digest = ""

    def __init__(self, content: bytes, version: int) -> None:
        super().__init__(content)
        self.nbytes, self.mtime_ns = len(content), version

    def rewind(self) -> None:
        self.seek(0)


class StoredFile:
    def __init__(self, source: Stored, file: SourceFile) -> None:
        self._source, self._file = source, file

    def read(self, position: int, nbytes: int, buffer: Array) -> Array:
        data = buffer[:nbytes]
        self.read_into(position, data)
        return data

    def read_into(self, position: int, into: Array) -> None:
        self.check_unchanged()
        into.data[:] = self._source.files[self._file.path.name][position : position + into.nbytes]

    def read_columns(self, position: int, pitch: int, width: int, into: Array) -> None:
        for at in range(0, into.nbytes, width):
            self.read_into(position + at // width * pitch, into[at : at + width])

    def prefetch(self, position: int, nbytes: int) -> None:
        """Everything is at hand."""

    def forget(self, position: int, nbytes: int) -> None:
        """It stays at hand."""

    def interrupt(self) -> None:
        """Nothing waits."""

    def check_unchanged(self) -> None:
        self._source.stat(self._file)

    def close(self) -> None:
        self._source.open_files -= 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", files=3, hidden_size=256, num_attention_heads=16)


@pytest.fixture
def stored(folder: Path) -> Stored:
    return Stored(folder)


def shards(source: WeightSource | Path, weights: Path, **flags: Any) -> dict[str, bytes]:
    plan = make_plan(open_checkpoint(source), {"tp_degree": 4, **flags})
    run(plan, FileSink(weights), observer=ContentDigests(), sizes=Sizes(chunk_bytes=50_000))
    return {path.name: path.read_bytes() for path in weights.iterdir()}


@pytest.mark.parametrize("flags", [{}, TRANSPOSING], ids=["plain", "transposing"])
def test_shards_are_those_of_a_folder(folder: Path, stored: Stored, tmp_path: Path, flags: dict[str, Any]) -> None:
    expected = shards(folder, tmp_path / "of-folder", **flags)
    assert shards(stored, tmp_path / "of-stored", **flags) == expected
    assert stored.open_files == 0


def test_digests_are_those_of_a_folder(folder: Path, stored: Stored) -> None:
    pieces = take_digests(open_checkpoint(folder)).pieces()
    checkpoint = open_checkpoint(stored)
    assert take_digests(checkpoint).pieces() == pieces
    assert check_content(checkpoint, pieces, pieces) is None
    assert stored.open_files == 0


@pytest.mark.parametrize(
    "reading",
    [
        lambda checkpoint, weights: run(make_plan(checkpoint, {"tp_degree": 4}), FileSink(weights)),
        lambda checkpoint, weights: take_digests(checkpoint),
        lambda checkpoint, weights: file_stats(checkpoint),
    ],
    ids=["shards", "digests", "stats"],
)
def test_a_file_that_was_replaced_is_refused(
    stored: Stored, tmp_path: Path, reading: Callable[[Checkpoint, Path], object]
) -> None:
    checkpoint = open_checkpoint(stored)
    stored.replace(sorted(name for name in stored.files if name.endswith(".safetensors"))[-1])
    with pytest.raises(SourceChanged, match=r"no-folder/model/.* it is another version"):
        reading(checkpoint, tmp_path / "weights")
    assert stored.open_files == 0


def test_refusals_are_those_of_a_folder(stored: Stored) -> None:
    name = sorted(name for name in stored.files if name.endswith(".safetensors"))[0]
    del stored.files[name]
    with pytest.raises(CheckpointFileMissing, match="no-folder/model holds no such file"):
        open_checkpoint(stored)
    stored.files.clear()
    with pytest.raises(SourceNotFound, match="no-folder/model"):
        open_checkpoint(stored)
