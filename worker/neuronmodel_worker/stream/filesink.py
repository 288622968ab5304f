"""Writes the files that NxD Inference reads, one for each rank, under temporary names until each is whole and on
disk."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import xxhash

from neuronmodel_worker.io.aligned import Array, placed
from neuronmodel_worker.io.disk import (
    BLOCK,
    NOT_DIRECT,
    UNFINISHED,
    WrittenFile,
    abandoned_lock,
    allocate,
    create_locked,
    is_in_memory,
    open_direct,
    require_space,
    sync,
    temporary_path,
    writing_to,
)
from neuronmodel_worker.plan.streamed import RANK_NBYTES, StreamedPlan
from neuronmodel_worker.stream.buffers import Buffers
from neuronmodel_worker.stream.dtypes import STORAGE
from neuronmodel_worker.stream.meter import Meter
from neuronmodel_worker.stream.rankfile import (
    TENSOR_DIGESTS,
    RankFileFormat,
    combine_digests,
    rank_file_format,
    rank_file_name,
)
from neuronmodel_worker.stream.steps import Step
from neuronmodel_worker.stream.writeback import Writeback

FILES_AT_A_TIME = 8
"""How many are allocated, or synced."""


class RankFileWriter:
    """One rank's file while it is written. Its lock shows a later run that this writer is alive."""

    def __init__(self, directory: Path, rank: int, layout: RankFileFormat, writeback: Writeback) -> None:
        self.rank = rank
        self.final = directory / rank_file_name(rank)
        self.temporary = temporary_path(self.final)
        self.layout = layout
        self.digests = {tensor.name: xxhash.xxh3_128() for tensor in layout.order}
        self.direct: int | None = None
        self.descriptor = create_locked(self.temporary)
        self._writeback = writeback

    def begin(self, plan: StreamedPlan) -> None:
        """Allocate the file, and write what is known of it before anything is read."""
        self.allocate()
        self.write_rank_number(plan)

    def allocate(self) -> None:
        allocate(self.descriptor, self.layout.nbytes)
        self.direct = open_direct(self.temporary, os.O_WRONLY)
        self._write_cached(0, np.frombuffer(self.layout.header, np.uint8))

    def write_rank_number(self, plan: StreamedPlan) -> None:
        number = np.frombuffer(self.rank.to_bytes(RANK_NBYTES, "little"), np.uint8)
        for name in plan.rank_tensors:
            self.write_tensor(name, 0, number)

    def write_tensor(self, name: str, start: int, data: Array) -> None:
        """Write the tensor's bytes from `start` on; those before it have been written."""
        self._write(self.layout.offsets[name] + start, data)
        self.digests[name].update(data.data)

    def writes_as_it_is(self, name: str, start: int, data: Array) -> bool:
        """Whether `write_tensor` writes these bytes at full speed wherever they are in memory: where it writes past the
        page cache, they have to be aligned as they are in the file."""
        return self.direct is None or (data.ctypes.data - self.layout.offsets[name] - start) % BLOCK == 0

    def _write(self, position: int, data: Array) -> None:
        """Whole blocks that are aligned in memory as they are in the file go past the page cache, the rest through
        it."""
        head = min(-position % BLOCK, data.nbytes)
        body = (data.nbytes - head) // BLOCK * BLOCK
        written = head
        if self.direct is not None and body and (data.ctypes.data + head) % BLOCK == 0:
            written += self._write_direct(position + head, data[head : head + body])
        if head:
            self._write_cached(position, data[:head])
        if written < data.nbytes:
            self._write_cached(position + written, data[written:])

    def _write_direct(self, position: int, data: Array) -> int:
        """Returns how many bytes were written: less than all where the file system refuses direct writes."""
        done = 0
        while self.direct is not None and done < data.nbytes and done % BLOCK == 0:
            try:
                done += os.pwrite(self.direct, data[done:].data, position + done)
            except OSError as error:
                if error.errno not in NOT_DIRECT:
                    raise
                break
        return done

    def _write_cached(self, position: int, data: Array) -> None:
        view, at = data.data, position
        while view:
            count = os.pwrite(self.descriptor, view, at)
            view, at = view[count:], at + count
        if data.nbytes > BLOCK:
            self._writeback.wrote(self.descriptor, position, data.nbytes)

    def flush(self) -> WrittenFile:
        """Sync everything to the disk; the file still has its temporary name."""
        os.fsync(self.descriptor)
        digests = [self.digests[tensor.name].digest() for tensor in self.layout.order]
        digest = combine_digests(self.layout.header, digests)
        return WrittenFile(self.final.name, self.layout.nbytes, digest, TENSOR_DIGESTS, self.layout.header_digest)

    def publish(self) -> None:
        self.temporary.replace(self.final)

    def close(self) -> None:
        if self.direct is not None:
            os.close(self.direct)
        os.close(self.descriptor)
        self.temporary.unlink(missing_ok=True)


class FileSink:
    """Writes `tp{rank}_sharded_checkpoint.safetensors` for every rank that is made into `directory`, with `metadata`
    and the rank's number in its header.

    Raises ArtifactsVolumeFull or ArtifactsUnwritable. What a dead run has left in the directory is removed by `open`.

    Without `seal` nothing has a final name until `finish`; `before_publish` is called with what `finish` returns, when
    every file is on the disk and before the first has its final name. With `seal` each file gets its name on its own,
    as soon as it is whole and on the disk and its source was found unchanged; then `seal` is called with the rank and
    the file, by one thread at a time. Sealed files stay when the run fails.
    """

    buffered = True

    def __init__(
        self,
        directory: Path,
        before_publish: Callable[[tuple[WrittenFile, ...]], None] = lambda files: None,
        *,
        seal: Callable[[int, WrittenFile], None] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._before_publish = before_publish
        self._seal = seal
        self._metadata = metadata or {}
        self._files: dict[int, RankFileWriter] = {}
        self._sealed: dict[int, WrittenFile] = {}
        self._missing: dict[int, int] = {}
        self._borrowed: dict[int, Array] = {}
        self._needed = 0
        self._counting, self._sealing = threading.Lock(), threading.Lock()

    @property
    def waits(self) -> bool:
        return not is_in_memory(self.directory)

    @property
    def seals(self) -> bool:
        return self._seal is not None

    def open(
        self,
        plan: StreamedPlan,
        meter: Meter,
        buffers: Buffers,
        rank_indices: Sequence[int],
        check_source: Callable[[], None],
    ) -> None:
        self._meter, self._buffers, self._check_source = meter, buffers, check_source
        layouts = {i: rank_file_format(plan.tensors, plan.ranks[i], self._metadata) for i in rank_indices}
        writeback = Writeback()
        self._needed = sum(layout.nbytes for layout in layouts.values())
        with writing_to(self.directory, self._needed):
            self.directory.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.directory)
            require_space(self.directory, self._needed)
            for index, layout in layouts.items():
                self._files[index] = RankFileWriter(self.directory, plan.ranks[index], layout, writeback)
                self._missing[index] = sum(target.nbytes for target in plan.targets)
            # Where a file is kept in memory, this takes as long as half of all writing.
            with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="allocate") as pool:
                for _ in pool.map(lambda file: file.begin(plan), self._files.values()):
                    pass

    def frame(self, step: Step) -> Array:
        dtype = STORAGE[step.target.dtype]
        buffer = self._buffers.take(step.buffer_bytes)
        position = self._files[step.rank_index].layout.offsets[step.target.name] + step.start
        data = placed(buffer, position, step.nbytes)
        self._borrowed[id(step)] = buffer
        stored = data.view(dtype).reshape((step.columns, step.rows) if step.target.transposed else (step.rows, -1))
        if step.padded:
            stored.fill(0)
        return stored.T if step.target.transposed else stored

    def put(self, step: Step, frame: Array) -> None:
        stored = frame.T if step.target.transposed else frame
        self._write(step, stored.reshape(-1).view(np.uint8))
        self._buffers.give(self._borrowed.pop(id(step)))
        self._wrote(step)

    def put_unchanged(self, step: Step, rows: Array) -> bool:
        data = rows.reshape(-1).view(np.uint8)
        if not self._files[step.rank_index].writes_as_it_is(step.target.name, step.start, data):
            return False
        self._write(step, data)
        self._wrote(step)
        return True

    def _write(self, step: Step, data: Array) -> None:
        with writing_to(self.directory, self._needed), self._meter.writing(step.nbytes):
            self._files[step.rank_index].write_tensor(step.target.name, step.start, data)

    def _wrote(self, step: Step) -> None:
        with self._counting:
            self._missing[step.rank_index] -= step.nbytes
            is_complete = not self._missing[step.rank_index]
        if is_complete and self.seals:
            self._seal_file(step.rank_index)

    def _seal_file(self, index: int) -> None:
        """Sync the file, check that its source has not changed, and give it its final name, in this order."""
        file = self._files[index]
        with writing_to(self.directory, self._needed):
            written = file.flush()
        self._check_source()
        with writing_to(self.directory, self._needed):
            file.publish()
            sync(self.directory)
        with self._sealing:
            self._sealed[index] = written
            if self._seal:
                self._seal(file.rank, written)

    def finish(self) -> tuple[WrittenFile, ...]:
        """The files in the order of the ranks."""
        if self.seals:
            for index in self._files.keys() - self._sealed.keys():
                self._seal_file(index)
            written = tuple(self._sealed[index] for index in self._files)
        else:
            written = self._publish_together()
        self._close()
        return written

    def _publish_together(self) -> tuple[WrittenFile, ...]:
        with writing_to(self.directory, self._needed):
            with ThreadPoolExecutor(FILES_AT_A_TIME, thread_name_prefix="sync") as pool:
                written = tuple(pool.map(RankFileWriter.flush, self._files.values()))
            self._before_publish(written)
            for file in self._files.values():
                file.publish()
            sync(self.directory)
        return written

    def abort(self) -> None:
        self._close()

    def _close(self) -> None:
        while self._files:
            with suppress(OSError):
                self._files.popitem()[1].close()


def remove_unfinished(directory: Path) -> None:
    """Remove the files of dead writers; the file of a living one is locked."""
    for path in directory.glob(f".*{UNFINISHED}"):
        with abandoned_lock(path) as dead:
            if dead:
                path.unlink(missing_ok=True)
