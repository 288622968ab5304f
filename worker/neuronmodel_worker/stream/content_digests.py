"""Digests of the bytes of a checkpoint's tensors: taken while a plan runs, and compared by reading the tensors."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import xxhash

from neuronmodel_worker.checkpoint import Checkpoint, TensorSource
from neuronmodel_worker.io.aligned import SLACK, Array, fresh
from neuronmodel_worker.sources import OpenFile, SourceFile
from neuronmodel_worker.stream.meter import Meter, StreamProgress

CHUNK_BYTES = 16 << 20
THREADS = 4

PieceDigest = tuple[int, int, str]
"""(start, nbytes, xxh3-128 as hex) of a piece of a tensor."""


class ContentDigests:
    """A SourceObserver that takes the digest of every piece."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[PieceDigest]] = defaultdict(list)
        self._lock = threading.Lock()

    def observe(self, source: TensorSource, start: int, data: Array) -> None:
        digest = xxhash.xxh3_128(data.data).hexdigest()
        with self._lock:
            self._pieces[source.name].append((start, data.nbytes, digest))

    def pieces(self) -> dict[str, list[PieceDigest]]:
        """The digests of each tensor in the order of its bytes; after a run they cover every tensor that the plan
        reads."""
        with self._lock:
            return {name: sorted(pieces) for name, pieces in sorted(self._pieces.items())}


def take_digests(checkpoint: Checkpoint, progress: StreamProgress | None = None) -> ContentDigests:
    """Read every tensor for its digests alone, for when NxD Inference reads the weights itself.

    Raises SourceUnreadable, and SourceChanged where a file has changed since the checkpoint was opened.
    """
    digests = ContentDigests()
    sources = sorted(checkpoint.tensors.values(), key=_file_position)
    jobs = [(each, start) for each in sources for start in range(0, each.nbytes, CHUNK_BYTES)]
    with ExitStack() as stack:
        files = _opened(stack, checkpoint, sources)
        _take(jobs, files, Meter(progress), digests, max(THREADS, checkpoint.source.parallel_reads))
        for opened in files.values():
            opened.check_unchanged()
    return digests


def _opened(stack: ExitStack, checkpoint: Checkpoint, sources: Iterable[TensorSource]) -> dict[SourceFile, OpenFile]:
    files = {}
    for file in dict.fromkeys(source.file for source in sources):
        files[file] = checkpoint.source.open(file)
        stack.callback(files[file].close)
    return files


def _take(
    jobs: Sequence[tuple[TensorSource, int]],
    files: Mapping[SourceFile, OpenFile],
    meter: Meter,
    observer: ContentDigests,
    threads: int,
) -> None:
    thread_local = threading.local()

    def take(job: tuple[TensorSource, int]) -> None:
        source, start = job
        if not hasattr(thread_local, "buffer"):
            thread_local.buffer = fresh(CHUNK_BYTES + SLACK)
        length = min(CHUNK_BYTES, source.nbytes - start)
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
        threads = max(THREADS, checkpoint.source.parallel_reads)
        differing = _first_differing(jobs, files, Meter(progress), threads)
        for opened in files.values():
            opened.check_unchanged()
    if differing is None:
        return None
    return f"the content of the tensor {differing.name} of {differing.file.path.name} differs"


def _cover_all(pieces: Iterable[PieceDigest], nbytes: int) -> bool:
    """Whether the pieces cover all bytes from the first to the last."""
    end = 0
    for start, length, _ in sorted(pieces):
        if start != end:
            return False
        end += length
    return end == nbytes


def _file_position(source: TensorSource) -> tuple[str, int]:
    return source.file.path.name, source.offset


def _first_differing(
    jobs: Sequence[tuple[TensorSource, PieceDigest]], files: Mapping[SourceFile, OpenFile], meter: Meter, threads: int
) -> TensorSource | None:
    thread_local = threading.local()

    def is_same(job: tuple[TensorSource, PieceDigest]) -> bool:
        source, (start, nbytes, digest) = job
        if not hasattr(thread_local, "buffer"):
            thread_local.buffer = fresh(CHUNK_BYTES + SLACK)
        state = xxhash.xxh3_128()
        for position in range(source.offset + start, source.offset + start + nbytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, source.offset + start + nbytes - position)
            with meter.reading(length):
                data = files[source.file].read(position, length, thread_local.buffer)
            state.update(data.data)
        return state.hexdigest() == digest

    pool = ThreadPoolExecutor(threads, thread_name_prefix="compare")
    try:
        return next((source for (source, _), same in zip(jobs, pool.map(is_same, jobs), strict=True) if not same), None)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
