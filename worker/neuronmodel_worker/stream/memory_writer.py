"""Writes the files of rank tensors that are held in memory, without haste: the same bytes as were they streamed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from neuronmodel_worker.io.disk import BLOCK, WrittenFile, require_space, sync, writing_to
from neuronmodel_worker.plan.streamed import Plan
from neuronmodel_worker.stream.buffers import fresh, placed
from neuronmodel_worker.stream.dtypes import Array
from neuronmodel_worker.stream.filesink import RankFileWriter, remove_unfinished
from neuronmodel_worker.stream.meter import Meter, StreamProgress
from neuronmodel_worker.stream.rankfile import rank_file_format
from neuronmodel_worker.stream.sinks import RankTensor
from neuronmodel_worker.stream.steps import every_rank
from neuronmodel_worker.stream.writeback import Writeback

PIECE_BYTES = 16 << 20


def write_rank_files(
    directory: Path,
    plan: Plan,
    tensors: Sequence[Mapping[str, RankTensor]],
    *,
    metadata: Mapping[str, str] | None = None,
    seal: Callable[[int, WrittenFile], None] | None = None,
    progress: StreamProgress | None = None,
    wait: Callable[[], None] = lambda: None,
    rank_indices: Sequence[int] | None = None,
) -> tuple[WrittenFile, ...]:
    """Write `tensors[i]`, what TensorSink holds of the i-th rank of the plan, as FileSink with `seal` would: a file
    after the other, each named when it is whole and on the disk.

    All in the calling thread, so that its priorities hold, in memory of a piece. `wait` is called before each piece of
    at most 16 MiB; it may sleep, or raise, which leaves the files that were sealed and nothing else.
    Raises ArtifactsVolumeFull or ArtifactsUnwritable.
    """
    ranks = every_rank(plan) if rank_indices is None else sorted(set(rank_indices))
    layouts = {index: rank_file_format(plan.tensors, plan.ranks[index], metadata) for index in ranks}
    needed = sum(layout.nbytes for layout in layouts.values())
    meter, buffer, written = Meter(progress), fresh(PIECE_BYTES + BLOCK), []
    with writing_to(directory, needed):
        directory.mkdir(parents=True, exist_ok=True)
        remove_unfinished(directory)
        require_space(directory, needed)
    for index, layout in layouts.items():
        with writing_to(directory, needed):
            file = RankFileWriter(directory, plan.ranks[index], layout, Writeback())
        try:
            with writing_to(directory, needed):
                file.allocate()
            for tensor in layout.order:
                data = tensors[index][tensor.name].data.reshape(-1).view(np.uint8)
                for start in range(0, data.nbytes, PIECE_BYTES):
                    wait()
                    piece = data[start : start + PIECE_BYTES]
                    with writing_to(directory, needed), meter.writing(piece.nbytes):
                        file.write_tensor(tensor.name, start, _placed_as_in(file, tensor.name, start, piece, buffer))
            with writing_to(directory, needed):
                written.append(file.settle())
                file.publish()
                sync(directory)
        finally:
            with suppress(OSError):
                file.close()
        if seal:
            seal(file.rank, written[-1])
    return tuple(written)


def _placed_as_in(file: RankFileWriter, name: str, start: int, piece: Array, buffer: Array) -> Array:
    """A copy that lies to disk blocks as it will in the file: it is written past the page cache, which is others'."""
    copy = placed(buffer, file.layout.offsets[name] + start, piece.nbytes)
    np.copyto(copy, piece)
    return copy
