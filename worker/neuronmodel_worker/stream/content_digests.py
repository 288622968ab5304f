"""Digests of the bytes of a checkpoint's tensors: taken while a plan runs, and compared by reading the tensors."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import xxhash

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource
from neuronmodel_worker.io.aligned import SLACK, Array, fresh
from neuronmodel_worker.io.readers import bytes_at_a_time, reading_threads
from neuronmodel_worker.sources import OpenFile, SourceFile
from neuronmodel_worker.stream.meter import Meter, StreamProgress

PieceDigest = tuple[int, int, str]
"""(start, nbytes, xxh3-128 as hex) of a piece of a tensor."""


class ContentDigests:
    """A SourceObserver that takes the digest of every piece, in addition to those that are known."""

    def __init__(self, known: Mapping[str, Iterable[PieceDigest]] | None = None) -> None:
        self._pieces: dict[str, list[PieceDigest]] = defaultdict(list)
        for name, pieces in (known or {}).items():
            self._pieces[name].extend(pieces)
        self._new: dict[str, list[PieceDigest]] = defaultdict(list)
        self._lock = threading.Lock()

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        digest = xxhash.xxh3_128(data.data).hexdigest()
        with self._lock:
            piece = start, data.nbytes, digest
            self._pieces[source.name].append(piece)
            self._new[source.name].append(piece)

    def taken_since(self) -> dict[str, list[PieceDigest]]:
        """The digests that were taken since this was last asked for."""
        with self._lock:
            new, self._new = self._new, defaultdict(list)
        return dict(new)

    def pieces(self) -> dict[str, list[PieceDigest]]:
        """The digests of each tensor in the order of its bytes; after a run they cover every tensor that the plan
        reads. Of pieces that overlap, such as those of two runs, some are left out, so that each byte is in one."""
        with self._lock:
            return {name: _one_after_the_other(pieces) for name, pieces in sorted(self._pieces.items())}


def _one_after_the_other(pieces: Iterable[PieceDigest]) -> list[PieceDigest]:
    """Pieces that do not overlap, in their order: if possible such that each begins where the one before ends, from the
    first byte to the last."""
    ordered = sorted(set(pieces))
    last_of: dict[int, PieceDigest] = {}
    for piece in ordered:
        start, nbytes, _ = piece
        if nbytes and (start == 0 or start in last_of):
            last_of.setdefault(start + nbytes, piece)
    chain, end = list[PieceDigest](), max((start + nbytes for start, nbytes, _ in ordered), default=0)
    while end in last_of:
        chain.append(last_of[end])
        end = chain[-1][0]
    return chain[::-1] if chain and end == 0 else _apart(ordered)


def _apart(ordered: Iterable[PieceDigest]) -> list[PieceDigest]:
    found, end = list[PieceDigest](), 0
    for piece in ordered:
        if piece[0] >= end:
            found.append(piece)
            end = piece[0] + piece[1]
    return found


def take_digests(checkpoint: Checkpoint, progress: StreamProgress | None = None) -> ContentDigests:
    """Read every tensor for its digests alone, for when NxD Inference reads the weights itself.

    Raises SourceUnreadable, and SourceChanged where a file has changed since the checkpoint was opened.
    """
    digests = ContentDigests()
    take_missing_digests(checkpoint, checkpoint.tensors.values(), digests, progress)
    return digests


def take_missing_digests(
    checkpoint: Checkpoint,
    tensors: Iterable[TensorSource],
    digests: ContentDigests,
    progress: StreamProgress | None = None,
) -> None:
    """Read what no digest was taken of. Raises as `take_digests` does."""
    pieces, threads = digests.pieces(), max(reading_threads(), checkpoint.source.parallel_reads)
    most = bytes_at_a_time(threads)
    jobs = [
        (source, at, min(most, end - at))
        for source in sorted(tensors, key=_file_position)
        for start, end in _gaps(pieces.get(source.name, ()), source.nbytes)
        for at in range(start, end, most)
    ]
    with ExitStack() as stack:
        files = _opened(stack, checkpoint, (source for source, _, _ in jobs))
        _take(jobs, files, Meter(progress), digests, threads)
        for opened in files.values():
            opened.check_unchanged()


def _gaps(pieces: Iterable[PieceDigest], nbytes: int) -> Iterator[tuple[int, int]]:
    """(first byte, end) of what no piece covers."""
    end = 0
    for start, length, _ in [*sorted(pieces), (nbytes, 0, "")]:
        if start > end:
            yield end, start
        end = start + length


def _opened(stack: ExitStack, checkpoint: Checkpoint, sources: Iterable[TensorSource]) -> dict[SourceFile, OpenFile]:
    files = {}
    for file in dict.fromkeys(source.file for source in sources):
        files[file] = checkpoint.source.open(file)
        stack.callback(files[file].close)
    return files


def _take(
    jobs: Sequence[tuple[TensorSource, int, int]],
    files: Mapping[SourceFile, OpenFile],
    meter: Meter,
    observer: ContentDigests,
    threads: int,
) -> None:
    thread_local = threading.local()

    def take(job: tuple[TensorSource, int, int]) -> None:
        source, start, length = job
        if not hasattr(thread_local, "buffer"):
            thread_local.buffer = fresh(bytes_at_a_time(threads) + SLACK)
        with meter.reading(length):
            data = files[source.file].read(source.offset + start, length, thread_local.buffer)
        observer.observe(source, start, data)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="digest")
    try:
        for _ in pool.map(take, jobs):
            pass
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def check_content(
    checkpoint: Checkpoint,
    pieces: Mapping[str, Sequence[PieceDigest]],
    names: Iterable[str],
    progress: StreamProgress | None = None,
) -> str | None:
    """Read the named tensors and compare them with the digests of their pieces. Returns None where all are the same,
    and else a sentence about the first that differs.

    Raises SourceUnreadable, and SourceChanged where a file has changed since the checkpoint was opened.
    """
    sources = []
    for name in names:
        source = checkpoint.tensors.get(name)
        if source is None:
            return f"the tensor {name} is missing"
        if not _cover_all(pieces.get(name, ()), source.nbytes):
            return f"the tensor {name} of {source.file.path.name} is of another size"
        sources.append(source)
    jobs = [(source, piece) for source in sorted(sources, key=_file_position) for piece in sorted(pieces[source.name])]
    with ExitStack() as stack:
        files = _opened(stack, checkpoint, sources)
        threads = max(reading_threads(), checkpoint.source.parallel_reads)
        differing = _first_differing(jobs, files, Meter(progress), threads)
        for opened in files.values():
            opened.check_unchanged()
    if differing is None:
        return None
    return f"the content of the tensor {differing.name} of {differing.file.path.name} differs"


def _cover_all(pieces: Iterable[PieceDigest], nbytes: int) -> bool:
    """Whether the pieces cover all bytes from the first to the last, and each byte once."""
    pieces = list(pieces)
    return not any(_gaps(pieces, nbytes)) and sum(length for _, length, _ in pieces) == nbytes


def _file_position(source: TensorSource) -> tuple[str, int]:
    return source.file.path.name, source.offset


def _first_differing(
    jobs: Sequence[tuple[TensorSource, PieceDigest]], files: Mapping[SourceFile, OpenFile], meter: Meter, threads: int
) -> TensorSource | None:
    thread_local, most = threading.local(), bytes_at_a_time(threads)

    def is_same(job: tuple[TensorSource, PieceDigest]) -> bool:
        source, (start, nbytes, digest) = job
        if not hasattr(thread_local, "buffer"):
            thread_local.buffer = fresh(most + SLACK)
        state = xxhash.xxh3_128()
        for position in range(source.offset + start, source.offset + start + nbytes, most):
            length = min(most, source.offset + start + nbytes - position)
            with meter.reading(length):
                data = files[source.file].read(position, length, thread_local.buffer)
            state.update(data.data)
        return state.hexdigest() == digest

    pool = ThreadPoolExecutor(threads, thread_name_prefix="compare")
    try:
        return next((source for (source, _), same in zip(jobs, pool.map(is_same, jobs), strict=True) if not same), None)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
