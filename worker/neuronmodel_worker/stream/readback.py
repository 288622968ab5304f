"""Reads sealed rank files back into the tensors that they were made from."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import xxhash

from neuronmodel_worker.checkpoint import TensorSource, read_header
from neuronmodel_worker.disk import WrittenFile
from neuronmodel_worker.failures import ArtifactDamaged, BadInput
from neuronmodel_worker.stream.meter import Meter, Progress
from neuronmodel_worker.stream.numbers import STORAGE, Array
from neuronmodel_worker.stream.rankfile import combine_digests, rank_file_name
from neuronmodel_worker.stream.sinks import RankTensor

CHUNK_BYTES = 16 << 20
THREADS = 4


def read_rank_files(
    directory: Path,
    ranks: Iterable[int],
    progress: Progress | None = None,
    *,
    sealed: Mapping[str, WrittenFile] | None = None,
    full: bool = False,
) -> list[dict[str, RankTensor]]:
    """The tensors of `ranks`, in that order, each rank's in one piece of memory.

    `sealed` is what the manifest says of each file: sizes are always compared with it, digests when `full`.
    Raises ArtifactDamaged.
    """
    meter = Meter(progress)

    def read(rank: int) -> dict[str, RankTensor]:
        file = directory / rank_file_name(rank)
        tensors = _read_rank_file(file, meter, sealed[file.name] if sealed else None, full)
        _check_rank(file, tensors, rank)
        return tensors

    with ThreadPoolExecutor(THREADS, thread_name_prefix="read") as pool:
        return list(pool.map(read, ranks))


def _check_rank(file: Path, tensors: Mapping[str, RankTensor], rank: int) -> None:
    """Every rank's file has the same names and sizes: two that were swapped betray themselves here alone."""
    number = tensors.get("rank_util.rank")
    if number is not None and number.data.tolist() != [rank]:
        raise ArtifactDamaged(file, f"it holds the tensors of rank {number.data.tolist()[0]}")


def _read_rank_file(file: Path, meter: Meter, sealed: WrittenFile | None, full: bool) -> dict[str, RankTensor]:
    try:
        source, tensors = read_header(file)
        if sealed and source.nbytes != sealed.nbytes:
            raise ArtifactDamaged(file, f"it is {source.nbytes:,} bytes long and was sealed with {sealed.nbytes:,}")
        start = min((tensor.offset for tensor in tensors.values()), default=source.nbytes)
        header, data = _read_bytes(file, start, source.nbytes, meter)
    except BadInput as error:
        raise ArtifactDamaged(file, str(error)) from error
    except OSError as error:
        raise ArtifactDamaged(file, error.strerror or str(error)) from error
    if sealed and full and (found := _digest(header, data, tensors.values(), start)) != sealed.digest:
        raise ArtifactDamaged(file, f"its digest is {found} and was sealed as {sealed.digest}")
    return {name: _tensor(tensor, data, start, file) for name, tensor in tensors.items()}


def _read_bytes(file: Path, start: int, nbytes: int, meter: Meter) -> tuple[bytes, Array]:
    data = np.empty(nbytes - start, np.uint8)
    with file.open("rb", buffering=0) as stream:
        header = os.pread(stream.fileno(), start, 0)
        for offset in range(0, len(data), CHUNK_BYTES):
            chunk = data[offset : offset + CHUNK_BYTES]
            with meter.reading(len(chunk)):
                _fill_from(stream.fileno(), chunk.data, start + offset, file)
    return header, data


def _fill_from(descriptor: int, view: memoryview, position: int, file: Path) -> None:
    while view:
        count = os.preadv(descriptor, [view], position)
        if count == 0:
            raise ArtifactDamaged(file, f"it ends at byte {position:,}, before its tensors do")
        view, position = view[count:], position + count


def _tensor(tensor: TensorSource, data: Array, start: int, file: Path) -> RankTensor:
    if tensor.dtype not in STORAGE:
        raise ArtifactDamaged(file, f"its tensor {tensor.name} has the type {tensor.dtype}")
    part = data[tensor.offset - start : tensor.offset - start + tensor.nbytes]
    return RankTensor(tensor.dtype, tensor.shape, part.view(STORAGE[tensor.dtype]).reshape(tensor.shape))


def _digest(header: bytes, data: Array, tensors: Iterable[TensorSource], start: int) -> str:
    in_order = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes))
    parts = (data[tensor.offset - start : tensor.offset - start + tensor.nbytes] for tensor in in_order)
    return combine_digests(header, (xxhash.xxh3_128(part.data).digest() for part in parts))
