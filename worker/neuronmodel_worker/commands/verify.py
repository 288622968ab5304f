"""`neuronmodel verify`: whether the shards in a folder are complete, of their ranks, and what their manifest says.

It works on the output of `neuronmodel shard`, on a set of the artifact store, and, without digests, on the output of
NxD Inference itself.
"""

import argparse
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from neuronmodel_worker.commands.inputs import reading_threads_of
from neuronmodel_worker.commands.output_folder import lock_folder, rank_files
from neuronmodel_worker.commands.rank_file_checks import (
    ExaminedFile,
    examine,
    inconsistent_files,
    manifest_problems,
    missing_ranks,
    ranks_of,
)
from neuronmodel_worker.commands.terminal import print_line, progress
from neuronmodel_worker.commands.usage_errors import FolderRefused, SetDamaged
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsUnreadable
from neuronmodel_worker.store import SHARDS
from neuronmodel_worker.store.manifest import MANIFEST, Manifest, file_problems, read_manifest
from neuronmodel_worker.store.source_records import SOURCE_FILE
from neuronmodel_worker.store.verification import full_problems
from neuronmodel_worker.stream import WEIGHTS
from neuronmodel_worker.units import duration, in_units, rate


def verify(options: argparse.Namespace) -> None:
    """Prints every problem. Raises SetDamaged if there is one; ArtifactsUnreadable, ArtifactsTooNew, FolderRefused or
    FolderInUse if the folder cannot be checked."""
    reading_threads_of(options)
    with _shared_lock(options.directory):
        began = time.monotonic()
        manifest, problems = _manifest(options.directory)
        found = rank_files(options.directory / WEIGHTS)
        if not found and not manifest:
            raise FolderRefused(
                f"{options.directory} holds neither {MANIFEST} nor rank files in {WEIGHTS}. Name the folder that "
                "`neuronmodel shard` was given."
            )
        problems += manifest_problems(manifest, found) if manifest else missing_ranks(found)
        problems += _other_file_problems(options.directory, manifest, options.full) if manifest else []
        files = {rank: path for rank, path in found.items() if not manifest or rank in ranks_of(manifest)}
        examined = _examine(files, manifest, options)
        seconds = time.monotonic() - began
    problems += [f"{WEIGHTS}/{each.path.name}: {what}" for each in examined for what in each.problems]
    problems += [f"{WEIGHTS}/{path.name}: {what}" for path, what in inconsistent_files(examined)]
    for problem in problems:
        print_line(problem)
    for each in examined:
        if each.unreadable:
            raise each.unreadable
    if problems:
        raise SetDamaged(options.directory, len(problems))
    print_line(_summary(files, manifest, seconds if options.full else None))


@contextmanager
def _shared_lock(directory: Path) -> Iterator[None]:
    """Locks the folder against writers. Raises FolderRefused, and FolderInUse while somebody writes there."""
    lock = lock_folder(directory, exclusive=False) if directory.is_dir() else None
    if lock is None:
        raise FolderRefused(f"There is no folder {directory}. Name the one that `neuronmodel shard` was given.")
    try:
        yield
    finally:
        os.close(lock)


def _manifest(directory: Path) -> tuple[Manifest | None, list[str]]:
    try:
        manifest = read_manifest(directory)
    except FileNotFoundError:
        return None, []
    except ArtifactDamaged as damage:
        return None, [f"{MANIFEST}: {damage.what}"]
    except OSError as error:
        raise ArtifactsUnreadable(directory / MANIFEST, error) from error
    if manifest.kind != SHARDS:
        raise FolderRefused(f"{directory} holds a compiled model, not shards. Name a folder of shards.")
    return manifest, []


def _other_file_problems(directory: Path, manifest: Manifest, full: bool) -> list[str]:
    """Checks what a set of the artifact store holds apart from rank files, which is little."""
    others = {name: entry for name, entry in manifest.files.items() if name == SOURCE_FILE}
    try:
        problems = [each for name, entry in others.items() for each in file_problems(directory, name, entry)]
    except OSError as error:
        raise ArtifactsUnreadable(directory, error) from error
    if full and not problems:
        problems += full_problems(directory, manifest.model_copy(update={"files": others}))
    return problems


def _examine(files: Mapping[int, Path], manifest: Manifest | None, options: argparse.Namespace) -> list[ExaminedFile]:
    sealed = manifest.written(WEIGHTS) if manifest else {}
    total = sum(path.stat().st_size for path in files.values() if path.is_file())
    done: dict[Path, int] = {}
    lock = threading.Lock()
    with progress("verify", "read", total, options.quiet or not options.full) as show:

        def reached(path: Path, count: int) -> None:
            with lock:
                done[path] = count
                show(sum(done.values()))

        return examine(files, sealed, options.full, reading_threads_of(options), reached)


def _summary(files: Mapping[int, Path], manifest: Manifest | None, seconds: float | None) -> str:
    """Returns the result. `seconds` is how long it took to read every byte, if that was done."""
    nbytes, ranks = sum(path.stat().st_size for path in files.values()), list(files)
    layout = manifest.inputs.get("layout", {}) if manifest else {}
    degree = f" of {layout['tp_degree']}" if layout.get("tp_degree", len(ranks)) != len(ranks) else ""
    count = f"{len(ranks)} rank {'file' if len(ranks) == 1 else 'files'} ({_spans(ranks)}{degree}), {in_units(nbytes)}"
    text = f"{count}: sizes, headers, tensors and rank numbers are right"
    if seconds is not None:
        what = "digests too, all bytes" if manifest else "every byte could be"
        text += f"; {what} read in {duration(seconds)} ({rate(nbytes, seconds)})"
    return text if manifest else f"{text}; there is no {MANIFEST}, so digests could not be compared"


def _spans(ranks: list[int]) -> str:
    """Formats ranks as `0-3, 6`."""
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and spans[-1][-1] == rank - 1:
            spans[-1].append(rank)
        else:
            spans.append([rank])
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
