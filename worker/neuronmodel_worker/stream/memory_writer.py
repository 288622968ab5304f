"""Writes rank tensors that are in memory to files, in the background: the same bytes as a FileSink writes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from neuronmodel_worker.io.aligned import Array, fresh, placed
from neuronmodel_worker.io.disk import BLOCK, WrittenFile, require_space, sync, writing_to
from neuronmodel_worker.plan.streamed import StreamedPlan
from neuronmodel_worker.stream.filesink import RankFileWriter, remove_unfinished
from neuronmodel_worker.stream.meter import Meter, StreamProgress
from neuronmodel_worker.stream.rankfile import rank_file_format
from neuronmodel_worker.stream.sinks import RankTensor
from neuronmodel_worker.stream.steps import every_rank
from neuronmodel_worker.stream.writeback import Writeback

PIECE_BYTES = 16 << 20


def write_rank_files(
    directory: Path,
    plan: StreamedPlan,
    tensors: Sequence[Mapping[str, RankTensor]],
    *,
    metadata: Mapping[str, str] | None = None,
    seal: Callable[[int, WrittenFile], None] | None = None,
    progress: StreamProgress | None = None,
    wait: Callable[[], None] = lambda: None,
    rank_indices: Sequence[int] | None = None,
) -> tuple[WrittenFile, ...]:
    """Write `tensors[i]`, the tensors of the i-th rank of the plan in a TensorSink, as FileSink with `seal` does: one
    file after the other, each named when it is whole and on the disk.

    Everything is done in the calling thread, so that its priorities apply, with one buffer of 16 MiB. `wait` is called
    before each piece of at most that size; it may sleep, or raise, which leaves nothing but the files that were sealed.
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
                        file.write_tensor(tensor.name, start, _aligned_copy(file, tensor.name, start, piece, buffer))
            with writing_to(directory, needed):
                written.append(file.flush())
                file.publish()
                sync(directory)
        finally:
            with suppress(OSError):
                file.close()
        if seal:
            seal(file.rank, written[-1])
    return tuple(written)


def _aligned_copy(file: RankFileWriter, name: str, start: int, piece: Array, buffer: Array) -> Array:
    """A copy that is aligned to disk blocks as it will be in the file, so that it is written past the page cache, which
    is left to others."""
    copy = placed(buffer, file.layout.offsets[name] + start, piece.nbytes)
    np.copyto(copy, piece)
    return copy
