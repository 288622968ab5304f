"""Verification of a set: its manifest and sizes, or every byte at the speed of the disk."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsUnreadable
from neuronmodel_worker.io.disk import WHOLE_FILE, WrittenFile
from neuronmodel_worker.io.readers import Readers, readers_of_each, reading_threads
from neuronmodel_worker.store.atomic_files import READ_BYTES, SAFETENSORS, Digest
from neuronmodel_worker.store.keys import ArtifactKind
from neuronmodel_worker.store.manifest import Manifest, quick_problems, read_manifest

VerifyProgress = Callable[[int], None]
"""Is called with the number of bytes read so far, by one thread at a time."""


def all_problems(
    directory: Path, kind: ArtifactKind, key: str, full: bool, progress: VerifyProgress | None, threads: int | None
) -> list[str]:
    """Everything that is wrong with a set; with `full` every byte is compared. Raises ArtifactsTooNew,
    ArtifactsUnreadable."""
    try:
        manifest = read_manifest(directory)
        problems = [f"its manifest is the one of {manifest.kind} {manifest.key}"] * (
            (manifest.kind, manifest.key) != (kind, key)
        )
        problems += quick_problems(directory, manifest)
    except ArtifactDamaged as damage:
        return [damage.what]
    except (FileNotFoundError, NotADirectoryError) as error:
        return [f"{error.filename}: {error.strerror or error}"]
    except OSError as error:
        raise ArtifactsUnreadable(directory, error) from error
    if full and not problems:
        problems += full_problems(directory, manifest, progress, threads)
    return problems


def full_problems(
    directory: Path, manifest: Manifest, progress: VerifyProgress | None = None, threads: int | None = None
) -> Iterator[str]:
    """A sentence for each file whose content does not have its digest. Absent `threads` are as many as suit the
    machine. Raises ArtifactsUnreadable."""
    counter, written, threads = _Counter(progress), manifest.written(), threads or reading_threads()
    readers = readers_of_each(threads, len(written))

    def check(item: tuple[str, WrittenFile]) -> str | None:
        name, file = item
        try:
            return _problem(directory / name, file, counter, readers)
        except ArtifactDamaged as damage:
            return f"{name}: {damage.what}"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            raise ArtifactsUnreadable(directory / name, error) from error

    pool = ThreadPoolExecutor(min(threads, max(1, len(written))), thread_name_prefix="verify")
    try:
        yield from filter(None, pool.map(check, written.items()))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Counter:
    def __init__(self, progress: VerifyProgress | None) -> None:
        self._progress = progress
        self._bytes_read: dict[Path, int] = {}
        self._lock = threading.Lock()

    def reached(self, path: Path, nbytes: int) -> None:
        if self._progress:
            with self._lock:
                self._bytes_read[path] = nbytes
                self._progress(sum(self._bytes_read.values()))


def _problem(path: Path, file: WrittenFile, counter: _Counter, readers: Readers) -> str | None:
    if file.algorithm == WHOLE_FILE:
        return _whole_file_problem(path, file, counter)
    if not file.name.endswith(SAFETENSORS):
        return f"{file.name} was sealed with the digest {file.algorithm}, which is not known"
    # Imported here: a check of sizes and headers alone does not need numpy.
    from neuronmodel_worker.stream import check_rank_file

    check_rank_file(path, file, True, lambda so_far: counter.reached(path, so_far.bytes_read), readers)
    return None


def _whole_file_problem(path: Path, file: WrittenFile, counter: _Counter) -> str | None:
    digest, done = Digest(), 0
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(READ_BYTES):
            digest.update(data)
            done += len(data)
            counter.reached(path, done)
    if (found := digest.hexdigest()) != file.digest:
        return f"the digest of {file.name} is {found} and was sealed as {file.digest}"
    return None
