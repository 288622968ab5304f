"""What can be wrong with the rank files of a folder: all problems are found at once, one line each."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuronmodel_worker.checkpoint import TensorSource, read_header
from neuronmodel_worker.commands.output_folder import RANK_FILE
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsUnreadable, BadInput
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.io.readers import Readers, readers_of_each
from neuronmodel_worker.plan.streamed import RANK_DTYPE, RANK_NBYTES
from neuronmodel_worker.store import shards_key
from neuronmodel_worker.store.manifest import MANIFEST, Manifest
from neuronmodel_worker.store.source_records import SOURCE_FILE
from neuronmodel_worker.stream import WEIGHTS, Transferred, check_rank_file, rank_file_name

# Suffixes of the tensors that hold the number of their rank.
RANK_TENSORS = ("rank_util.rank", "spmd_rank.rank")
NAMED = 3
"""How many tensors are named for a file in which many of them differ from the other files."""

# dtype and shape by name, which are the same in every rank's file.
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]

# Called with a file and how many of its bytes were read.
Reached = Callable[[Path, int], None]


@dataclass(frozen=True)
class ExaminedFile:
    """One rank's file. `tensors` is None if its header is unreadable; `unreadable` is a failure of the disk, not of the
    file."""

    path: Path
    problems: tuple[str, ...] = ()
    tensors: Tensors | None = None
    unreadable: ArtifactsUnreadable | None = None


def examine(
    files: Mapping[int, Path], sealed: Mapping[str, WrittenFile], full: bool, threads: int, reached: Reached
) -> list[ExaminedFile]:
    """Examines every file by itself; `sealed` is what the manifest says of them, if there is one."""
    readers = readers_of_each(threads, len(files))

    def one(rank: int, path: Path) -> ExaminedFile:
        try:
            return _check_contents(
                path, rank, list(_content_problems(path, sealed.get(path.name), full, reached, readers))
            )
        except ArtifactsUnreadable as error:
            return ExaminedFile(path, unreadable=error)
        except OSError as error:
            return ExaminedFile(path, unreadable=ArtifactsUnreadable(path, error))

    pool = ThreadPoolExecutor(min(threads, max(1, len(files))), thread_name_prefix="verify")
    try:
        return list(pool.map(one, files.keys(), files.values()))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _content_problems(
    path: Path, sealed: WrittenFile | None, full: bool, reached: Reached, readers: Readers
) -> Iterator[str]:
    def progress(so_far: Transferred) -> None:
        reached(path, so_far.bytes_read)

    nbytes = path.stat().st_size
    if sealed and nbytes != sealed.nbytes:
        yield f"it is {nbytes:,} bytes long and was sealed with {sealed.nbytes:,}"
        return
    try:
        check_rank_file(path, sealed, full, progress, readers)
    except ArtifactDamaged as damage:
        yield damage.what.removeprefix(f"{path} ")


def _check_contents(path: Path, rank: int, problems: list[str]) -> ExaminedFile:
    """Checks header and rank number even if a problem is known: a file of another rank says more than a wrong
    digest."""
    try:
        _, tensors = read_header(path)
    except BadInput as error:
        return ExaminedFile(path, tuple(problems) or (str(error).removeprefix(f"{path} "),))
    found = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    return ExaminedFile(path, (*problems, *_rank_number_problems(path, rank, tensors)), found)


def _rank_number_problems(path: Path, rank: int, tensors: Mapping[str, TensorSource]) -> Iterator[str]:
    """Compares the rank's number: all rank files have the same names and sizes, so two swapped ones differ only in
    it."""
    numbered = {name: tensor for name, tensor in tensors.items() if name.endswith(RANK_TENSORS)}
    with path.open("rb", buffering=0) as stream:
        found = {name: os.pread(stream.fileno(), tensor.nbytes, tensor.offset) for name, tensor in numbered.items()}
    if any((tensor.dtype, tensor.nbytes) != (RANK_DTYPE, RANK_NBYTES) for tensor in numbered.values()):
        yield f"a tensor that ends in {' or '.join(RANK_TENSORS)} is no {RANK_DTYPE} of one element"
        return
    numbers = {int.from_bytes(raw, "little", signed=True) for raw in found.values()}
    if numbers - {rank}:
        yield f"it holds the tensors of rank {', '.join(map(str, sorted(numbers - {rank})))}"


def inconsistent_files(examined: Iterable[ExaminedFile]) -> Iterator[tuple[Path, str]]:
    """Yields the files whose tensors differ from those of most files."""
    known = [(each.path, each.tensors) for each in examined if each.tensors is not None]
    if not known:
        return
    (usual, _), *_ = Counter(frozenset(tensors.items()) for _, tensors in known).most_common(1)
    expected = dict(usual)
    for path, tensors in known:
        if unlike := [_difference(name, tensors, expected) for name in _unlike(tensors, expected)]:
            more = f", and {len(unlike) - NAMED} tensors more" if len(unlike) > NAMED else ""
            yield path, f"it is not like the files of the other ranks: {', '.join(unlike[:NAMED])}{more}"


def _unlike(tensors: Tensors, expected: Tensors) -> list[str]:
    return sorted(name for name in tensors.keys() | expected.keys() if tensors.get(name) != expected.get(name))


def _difference(name: str, tensors: Tensors, expected: Tensors) -> str:
    if name not in tensors:
        return f"{name} is missing"
    if name not in expected:
        return f"{name} is in no other"
    (dtype, shape), (usual_dtype, usual_shape) = tensors[name], expected[name]
    return f"{name} is {dtype} {list(shape)} and {usual_dtype} {list(usual_shape)} elsewhere"


def missing_ranks(ranks: Iterable[int]) -> Iterator[str]:
    """Yields the ranks that are missing between those that are present."""
    present = sorted(ranks)
    for rank in range(present[0], present[-1] + 1):
        if rank not in present:
            yield f"{WEIGHTS}/{rank_file_name(rank)}: it is missing, and ranks {present[0]} to {present[-1]} are there"


def manifest_problems(manifest: Manifest, found: Mapping[int, Path]) -> Iterator[str]:
    """Yields where the manifest contradicts itself, or the files that are present."""
    named = ranks_of(manifest)
    for name in manifest.files:
        if name not in {SOURCE_FILE, *(f"{WEIGHTS}/{rank_file_name(rank)}" for rank in named)}:
            yield f"{MANIFEST}: it names {name}, which is no rank's file"
    inputs = manifest.inputs
    if isinstance(inputs.get("source"), str) and isinstance(inputs.get("layout"), dict):
        key = shards_key(inputs["source"], inputs["layout"])
        if key != manifest.key:
            yield f"{MANIFEST}: its key is {manifest.key}, and what it was made from gives {key}"
        for rank in sorted(_ranks_of_key(inputs["layout"]) - set(named)):
            yield f"{MANIFEST}: it is of a set with rank {rank}, and names no file of it"
    for rank in named:
        if rank not in found:
            yield f"{WEIGHTS}/{rank_file_name(rank)}: it is missing"
    for rank, path in found.items():
        if rank not in named:
            yield f"{WEIGHTS}/{path.name}: the manifest does not know it; it is left from other shards"


def ranks_of(manifest: Manifest) -> list[int]:
    """Returns the ranks whose files the manifest names."""
    folders = (name.rpartition("/") for name in manifest.files)
    return sorted(int(m[1]) for folder, _, name in folders if folder == WEIGHTS and (m := RANK_FILE.fullmatch(name)))


def _ranks_of_key(layout: Mapping[str, Any]) -> set[int]:
    """Returns the ranks of the set, according to the inputs of its key."""
    start, count, ranks = layout.get("start_rank"), layout.get("local_ranks"), layout.get("ranks")
    if isinstance(ranks, list):
        return set(ranks)
    return set(range(start, start + count)) if type(start) is int and type(count) is int else set()
