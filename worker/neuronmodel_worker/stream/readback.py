"""Reads rank files back: into the tensors that they were made from, or only to verify them."""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import xxhash

from neuronmodel_worker.checkpoint import TensorSource, read_header
from neuronmodel_worker.failures import ArtifactDamaged, BadInput
from neuronmodel_worker.io.aligned import SLACK, Array, fresh, placed
from neuronmodel_worker.io.direct_io import EndsEarly, ReadableFile
from neuronmodel_worker.io.disk import BLOCK, WrittenFile
from neuronmodel_worker.io.readers import ALONE, READ_BYTES, Readers, reading_threads
from neuronmodel_worker.stream.dtypes import STORAGE
from neuronmodel_worker.stream.meter import Meter, StreamProgress
from neuronmodel_worker.stream.observers import FileObserver
from neuronmodel_worker.stream.rankfile import TENSOR_DIGESTS, combine_digests, rank_file_name
from neuronmodel_worker.stream.sinks import RankTensor


def read_rank_files(
    directory: Path,
    ranks: Iterable[int],
    progress: StreamProgress | None = None,
    *,
    sealed: Mapping[str, WrittenFile] | None = None,
    full: bool = False,
    observer: FileObserver | None = None,
) -> list[dict[str, RankTensor]]:
    """The tensors of `ranks`, in that order, each rank's in one piece of memory.

    `sealed` are the entries of the manifest: sizes are always compared with them, digests with `full`. `observer` sees
    every byte of the files, the header of each one first. Raises ArtifactDamaged.
    """
    meter, files = Meter(progress), list[RankFileReader]()

    def read(piece: tuple[RankFileReader, Array, int, int]) -> None:
        file, memory, start, stop = piece
        with _unreadable_is_damaged(file.path), meter.reading(stop - start):
            data = file.read(start, stop, memory)
        if observer:
            observer.observe(file.path.name, start, data)

    def tensors(rank: int, file: RankFileReader, memory: Array) -> dict[str, RankTensor]:
        found = file.tensors_in(placed(memory, file.start, file.nbytes - file.start), full)
        _check_rank(file.path, found, rank)
        return found

    try:
        for rank in ranks:
            path = directory / rank_file_name(rank)
            with _unreadable_is_damaged(path):
                files.append(RankFileReader(path, sealed[path.name] if sealed else None))
                if observer:
                    observer.observe(path.name, 0, files[-1].header())
        memories = [fresh(file.nbytes - file.start + SLACK) for file in files]
        pieces = [
            (file, memory, start, stop)
            for file, memory in zip(files, memories, strict=True)
            for start, stop in file.pieces()
        ]
        with ThreadPoolExecutor(reading_threads(), thread_name_prefix="read") as pool:
            try:
                for _ in pool.map(read, pieces):
                    pass
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            return list(pool.map(tensors, ranks, files, memories))
    finally:
        for file in files:
            file.close()


def check_rank_file(
    path: Path,
    sealed: WrittenFile | None,
    full: bool,
    progress: StreamProgress | None = None,
    readers: Readers = ALONE,
) -> None:
    """Check that a file is what was sealed: its header and length, and with `full` every byte.

    Raises ArtifactDamaged and OSError.
    """
    meter, file = Meter(progress), RankFileReader(path, sealed)
    try:
        if full:
            file.compare_digest(file.digests(meter, readers))
    finally:
        file.close()


class RankFileReader:
    """A rank's file that is open for reading; its tensors begin at byte `start`. Raises ArtifactDamaged where it is not
    whole or not as it was sealed, and OSError."""

    def __init__(self, path: Path, sealed: WrittenFile | None) -> None:
        self.path = path
        self.sealed = sealed
        with _ending_early_is_damaged(path):
            try:
                source, tensors = read_header(path)
            except BadInput as error:
                raise ArtifactDamaged(path, str(error)) from error
            if sealed and source.nbytes != sealed.nbytes:
                raise ArtifactDamaged(path, f"it is {source.nbytes:,} bytes long and was sealed with {sealed.nbytes:,}")
            self.nbytes = source.nbytes
            self.in_order = sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes))
            self.start = self.in_order[0].offset if self.in_order else source.nbytes
            self._file = ReadableFile(path)
            try:
                self._compare_header()
            except BaseException:
                self.close()
                raise

    def _compare_header(self) -> None:
        if self.sealed is None or self.sealed.header is None:
            return
        if (found := xxhash.xxh3_128(self.header().data).hexdigest()) != self.sealed.header:
            raise ArtifactDamaged(
                self.path, f"the digest of its header is {found} and was sealed as {self.sealed.header}"
            )

    def header(self) -> Array:
        """The bytes before the tensors."""
        header = np.empty(self.start, np.uint8)
        with _ending_early_is_damaged(self.path):
            self._file.read_cached(0, header)
        return header

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of the pieces in which the tensors are read, from block to block."""
        first = self.start - self.start % BLOCK
        for position in range(first, self.nbytes, READ_BYTES):
            yield max(position, self.start), min(position + READ_BYTES, self.nbytes)

    def read(self, start: int, stop: int, memory: Array) -> Array:
        """Read a piece into its place in memory that holds all pieces, from the block on in which the first one
        begins."""
        first = self.start - self.start % BLOCK
        with _ending_early_is_damaged(self.path):
            return self._file.read(start, stop - start, memory[start - start % BLOCK - first :])

    def digests(self, meter: Meter, readers: Readers) -> Sequence[bytes]:
        """The digest of every tensor, in the order of the file."""
        thread_local, most = threading.local(), readers.nbytes

        def digest(tensor: TensorSource) -> bytes:
            if not hasattr(thread_local, "buffer"):
                thread_local.buffer = fresh(most + SLACK)
            state = xxhash.xxh3_128()
            end = tensor.offset + tensor.nbytes
            for start in range(tensor.offset, end, most):
                nbytes = min(most, end - start)
                with meter.reading(nbytes), _ending_early_is_damaged(self.path):
                    state.update(self._file.read(start, nbytes, thread_local.buffer).data)
            return state.digest()

        if readers.threads == 1:
            return list(map(digest, self.in_order))
        pool = ThreadPoolExecutor(readers.threads, thread_name_prefix="digest")
        try:
            return list(pool.map(digest, self.in_order))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def tensors_in(self, data: Array, full: bool) -> dict[str, RankTensor]:
        """The tensors in `data`, which holds the file's bytes from `start` on."""
        bytes_of = {t.name: data[t.offset - self.start : t.offset - self.start + t.nbytes] for t in self.in_order}
        if full:
            self.compare_digest(xxhash.xxh3_128(part.data).digest() for part in bytes_of.values())
        return {tensor.name: self._tensor(tensor, bytes_of[tensor.name]) for tensor in self.in_order}

    def _tensor(self, tensor: TensorSource, part: Array) -> RankTensor:
        if tensor.dtype not in STORAGE:
            raise ArtifactDamaged(self.path, f"its tensor {tensor.name} has the type {tensor.dtype}")
        return RankTensor(tensor.dtype, tensor.shape, part.view(STORAGE[tensor.dtype]).reshape(tensor.shape))

    def compare_digest(self, tensors: Iterable[bytes]) -> None:
        if self.sealed is None:
            return
        if self.sealed.algorithm != TENSOR_DIGESTS:
            raise ArtifactDamaged(
                self.path, f"it was sealed with the digest {self.sealed.algorithm}, which is not known"
            )
        if (found := combine_digests(self.header().tobytes(), tensors)) != self.sealed.digest:
            raise ArtifactDamaged(self.path, f"its digest is {found} and was sealed as {self.sealed.digest}")

    def close(self) -> None:
        self._file.close()


def _check_rank(file: Path, tensors: Mapping[str, RankTensor], rank: int) -> None:
    """All rank files have the same names and sizes, so that two swapped files are only noticed here."""
    number = tensors.get("rank_util.rank")
    if number is not None and number.data.tolist() != [rank]:
        raise ArtifactDamaged(file, f"it holds the tensors of rank {number.data.tolist()[0]}")


@contextmanager
def _ending_early_is_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except EndsEarly as end:
        raise ArtifactDamaged(path, f"{end}, before its tensors do") from end


@contextmanager
def _unreadable_is_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactDamaged(path, error.strerror or str(error)) from error
