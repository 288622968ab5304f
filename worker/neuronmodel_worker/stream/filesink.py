"""Writes the files that NxD Inference reads, one a rank, under temporary names until each is whole and on disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from neuronmodel_worker.disk import (
    WrittenFile,
    create_locked,
    lock_of_the_dead,
    require_space,
    sync,
    writing_to,
)
from neuronmodel_worker.layouts.geometry import Piece
from neuronmodel_worker.plan import RANK_NBYTES, Plan
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.numbers import STORAGE, Array
from neuronmodel_worker.stream.rankfile import (
    TENSOR_DIGESTS,
    RankFileFormat,
    combine_digests,
    rank_file_format,
    rank_file_name,
)
from neuronmodel_worker.stream.source import Buffers
from neuronmodel_worker.stream.steps import Step

UNFINISHED = ".partial"
REREAD_BYTES = 8 << 20


@dataclass
class Digest:
    """A tensor's digest as its bytes arrive; `expected` is where the next ones belong, None once they came scattered
    and the tensor has to be read again."""

    expected: int | None = 0
    state: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)

    def update(self, start: int, data: Array) -> None:
        if self.expected == start:
            self.state.update(data.data)
            self.expected = start + data.nbytes
        else:
            self.expected = None


class RankFile:
    """One rank's file while it is written. Its lock tells a later run that this writer lives."""

    def __init__(self, directory: Path, rank: int, layout: RankFileFormat) -> None:
        self.rank = rank
        self.final = directory / rank_file_name(rank)
        self.temporary = directory / f".{self.final.name}.{os.getpid()}.{os.urandom(4).hex()}{UNFINISHED}"
        self.layout = layout
        self.digests = {tensor.name: Digest() for tensor in layout.order}
        self.descriptor = create_locked(self.temporary)

    def allocate(self) -> None:
        os.posix_fallocate(self.descriptor, 0, self.layout.nbytes)
        self.write(0, np.frombuffer(self.layout.header, np.uint8))

    def write(self, position: int, data: Array) -> None:
        view = data.data
        while view:
            count = os.pwrite(self.descriptor, view, position)
            view, position = view[count:], position + count

    def write_tensor(self, name: str, start: int, data: Array) -> None:
        self.write(self.layout.offsets[name] + start, data)
        self.digests[name].update(start, data)

    def settle(self) -> WrittenFile:
        """Everything onto the disk; the name is still the temporary one."""
        digests = [self._digest(tensor.name, tensor.nbytes) for tensor in self.layout.order]
        os.fsync(self.descriptor)
        digest = combine_digests(self.layout.header, digests)
        return WrittenFile(self.final.name, self.layout.nbytes, digest, TENSOR_DIGESTS)

    def publish(self) -> None:
        self.temporary.replace(self.final)

    def _digest(self, name: str, nbytes: int) -> bytes:
        digest = self.digests[name]
        if digest.expected == nbytes:
            return digest.state.digest()
        state = xxhash.xxh3_128()
        start = self.layout.offsets[name]
        for position in range(start, start + nbytes, REREAD_BYTES):
            state.update(os.pread(self.descriptor, min(REREAD_BYTES, start + nbytes - position), position))
        return state.digest()

    def close(self) -> None:
        os.close(self.descriptor)
        self.temporary.unlink(missing_ok=True)


class FileSink:
    """`tp{rank}_sharded_checkpoint.safetensors` for every rank of a plan, in `directory`.

    Raises ArtifactsVolumeFull or ArtifactsUnwritable. Until `finish` nothing has a final name, and what a dead run left
    in the directory is removed at `open`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: list[RankFile] = []
        self._buffers = Buffers()
        self._needed = 0

    def open(self, plan: Plan, meter: Meter) -> None:
        self._meter = meter
        layout = rank_file_format(plan.tensors)
        self._needed = layout.nbytes * len(plan.ranks)
        with writing_to(self.directory, self._needed):
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.directory)
            require_space(self.directory, self._needed)
            for rank in plan.ranks:
                self._files.append(RankFile(self.directory, rank, layout))
                self._files[-1].allocate()
                self._write_rank_number(plan, self._files[-1])

    @staticmethod
    def _write_rank_number(plan: Plan, file: RankFile) -> None:
        number = np.frombuffer(file.rank.to_bytes(RANK_NBYTES, "little"), np.uint8)
        for name in plan.rank_tensors:
            file.write_tensor(name, 0, number)

    @contextmanager
    def frame(self, step: Step) -> Iterator[Array]:
        place, dtype = step.rectangle, STORAGE[step.target.dtype]
        nbytes = place.rows * place.columns * dtype.itemsize
        buffer = self._buffers.take(nbytes)
        stored = buffer[:nbytes].view(dtype).reshape(place.rows, place.columns)
        if step.padded:
            stored.fill(0)
        yield stored.T if step.target.transposed else stored
        with writing_to(self.directory, self._needed), self._meter.writing(nbytes):
            self._write(step, place, buffer[:nbytes])
        self._buffers.give(buffer)

    def _write(self, step: Step, place: Piece, data: Array) -> None:
        file, name, itemsize = self._files[step.rank_index], step.target.name, STORAGE[step.target.dtype].itemsize
        stride, width = step.target.matrix[1] * itemsize, place.columns * itemsize
        start = place.row * stride + place.column * itemsize
        if width == stride:
            file.write_tensor(name, start, data)
            return
        for row in range(place.rows):
            file.write_tensor(name, start + row * stride, data[row * width : (row + 1) * width])

    def finish(self) -> tuple[WrittenFile, ...]:
        with writing_to(self.directory, self._needed):
            written = tuple(file.settle() for file in self._files)
            for file in self._files:
                file.publish()
            sync(self.directory)
        self._close()
        return written

    def abort(self) -> None:
        self._close()

    def _close(self) -> None:
        while self._files:
            with suppress(OSError):
                self._files.pop().close()


def remove_unfinished(directory: Path) -> None:
    """Remove what runs that died have left; a file whose writer lives is locked."""
    for path in directory.glob(f".*{UNFINISHED}"):
        with lock_of_the_dead(path) as dead:
            if dead:
                path.unlink(missing_ok=True)
