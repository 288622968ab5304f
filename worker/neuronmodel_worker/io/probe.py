"""Measures how fast disks are, in a short time and past the page cache if the file system allows it.

The result for a volume is kept on it, in `probes/<node>.json`, so that each node measures it once a day.
"""

import json
import logging
import mmap
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt, ValidationError

from neuronmodel_api import names
from neuronmodel_api.report import DiskRates
from neuronmodel_worker.io.disk import open_direct, temporary_path

log = logging.getLogger(__name__)

MAX_BYTES = 256 << 20
MAX_SECONDS = 1.5
BLOCK_BYTES = 16 << 20
SHARE_OF_FREE = 4
"""At most a quarter of the free space is written to for a measurement."""

PROBES: Final = "probes"
KEPT_MAX_BYTES = 64 << 20
"""How much is written to a volume, and read back, for a probe that is kept."""
KEPT_FOR: Final = timedelta(days=1)
FORGOTTEN_AFTER: Final = timedelta(days=30)
"""Probes of nodes that have not been seen for this long are removed."""
MAX_KEPT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured rate. `direct` means that the page cache was bypassed."""

    nbytes: int
    seconds: float
    direct: bool

    @property
    def bytes_per_second(self) -> float:
        return self.nbytes / self.seconds


class SizedFile(Protocol):
    """A file whose size is known."""

    @property
    def path(self) -> Path: ...
    @property
    def nbytes(self) -> int: ...


class VolumeProbe(BaseModel):
    """What a node measured of a volume. A rate is None if there was too little space to measure it."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    read_bytes_per_second: NonNegativeInt | None = None
    write_bytes_per_second: NonNegativeInt | None = None
    direct: bool = True
    """Whether the page cache was bypassed."""

    def merged_with(self, rates: DiskRates | None) -> DiskRates:
        """Returns the rates of a start with the probe's rates added."""
        return (rates or DiskRates()).model_copy(
            update={
                "probed_read_bytes_per_second": self.read_bytes_per_second,
                "probed_write_bytes_per_second": self.write_bytes_per_second,
            }
        )


def kept_probe(volume: Path, node: str | None = None, now: datetime | None = None) -> VolumeProbe | None:
    """Returns what this node measured of the volume within the last day; otherwise it measures now, and keeps the
    result below `volume`.

    Failures are only logged. None means that nothing is known.
    """
    file = _file(volume, node)
    now = now or datetime.now(UTC)
    if (kept := _kept(file)) and timedelta() <= now - kept.at < KEPT_FOR:
        return kept
    try:
        found = probe_volume(volume, now)
    except OSError as error:
        log.warning("%s could not be probed: %s", volume, error.strerror or error)
        return None
    try:
        _keep(file, found)
        _remove_stale_probes(file, now)
    except OSError as error:
        log.warning("the probe of %s could not be kept: %s", volume, error.strerror or error)
    return found


def known_probe(volume: Path, node: str | None = None) -> VolumeProbe | None:
    """Returns the last result that this node kept for the volume, of whatever age. It measures and writes nothing."""
    return _kept(_file(volume, node))


def this_node() -> str:
    """Returns the node's name in the cluster, otherwise the machine's boot ID, which all its containers share."""
    if name := os.environ.get(names.ENV_NODE_NAME):
        return name
    with suppress(OSError):
        return f"boot-{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    return "unknown"


def _file(volume: Path, node: str | None) -> Path:
    return volume / PROBES / f"{_file_name(node or this_node())}.json"


def _file_name(node: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", node).lstrip(".")[:200] or "unknown"


def _kept(file: Path) -> VolumeProbe | None:
    try:
        with file.open("rb") as stream:
            return VolumeProbe.model_validate_json(stream.read(MAX_KEPT_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("%s is not a valid probe, and is measured again: %s", file, error)
        return None


def _keep(file: Path, found: VolumeProbe) -> None:
    """Writes the file without a sync: a torn file is measured again."""
    file.parent.mkdir(exist_ok=True)
    temporary = temporary_path(file)
    try:
        temporary.write_text(json.dumps(found.model_dump(mode="json")))
        temporary.chmod(0o664)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale_probes(kept: Path, now: datetime) -> None:
    """Removes old probes, and what was left under temporary names."""
    for path in kept.parent.iterdir():
        with suppress(FileNotFoundError):
            if path != kept and path.stat().st_mtime < (now - FORGOTTEN_AFTER).timestamp():
                path.unlink()


def probe_volume(directory: Path, now: datetime) -> VolumeProbe:
    """Measures the volume with an unnamed file that it writes and reads back. Raises OSError."""
    limit = min(KEPT_MAX_BYTES, _free_bytes(directory) // SHARE_OF_FREE)
    with _nameless(directory) as (descriptor, direct), _block() as block:
        writing = _write(descriptor, block, limit, direct)
        if not direct:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        reading = _read(descriptor, block, writing.nbytes if writing else 0, direct)
    return VolumeProbe(
        at=now,
        read_bytes_per_second=round(reading.bytes_per_second) if reading else None,
        write_bytes_per_second=round(writing.bytes_per_second) if writing else None,
        direct=direct,
    )


def reading_rate(files: Sequence[SizedFile]) -> Rate | None:
    """Measures reading of the biggest file; None if there is too little to read. Raises OSError."""
    biggest = max(files, key=lambda file: file.nbytes, default=None)
    if biggest is None:
        return None
    descriptor, direct = _open(biggest.path, os.O_RDONLY)
    try:
        if not direct:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        with _block() as block:
            return _read(descriptor, block, min(biggest.nbytes, MAX_BYTES), direct)
    finally:
        os.close(descriptor)


def writing_rate(directory: Path) -> Rate | None:
    """Measures writing to an unnamed file in `directory`; None if there is too little space. Raises OSError."""
    limit = min(MAX_BYTES, _free_bytes(directory) // SHARE_OF_FREE)
    with _nameless(directory) as (descriptor, direct), _block() as block:
        return _write(descriptor, block, limit, direct)


def _free_bytes(directory: Path) -> int:
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def _read(descriptor: int, block: mmap.mmap, limit: int, direct: bool) -> Rate | None:
    return _timed(lambda at: os.preadv(descriptor, [block], at), limit, direct)


def _write(descriptor: int, block: mmap.mmap, limit: int, direct: bool) -> Rate | None:
    block.seek(0)
    block.write(os.urandom(min(1 << 20, BLOCK_BYTES)) * max(1, BLOCK_BYTES >> 20))
    return _timed(lambda at: os.pwritev(descriptor, [block], at), limit, direct, finish=lambda: os.fsync(descriptor))


def _timed(
    transfer: Callable[[int], int], limit: int, direct: bool, finish: Callable[[], object] = lambda: None
) -> Rate | None:
    """Transfers whole blocks from the start of the file until a limit is reached."""
    done, began = 0, time.monotonic()
    while done + BLOCK_BYTES <= limit and time.monotonic() - began < MAX_SECONDS:
        count = transfer(done)
        done += count
        if count < BLOCK_BYTES:
            break
    finish()
    return Rate(done, max(time.monotonic() - began, 1e-9), direct) if done >= BLOCK_BYTES else None


def _open(path: Path, flags: int) -> tuple[int, bool]:
    if (descriptor := open_direct(path, flags)) is not None:
        return descriptor, True
    return os.open(path, flags | os.O_CLOEXEC), False


@contextmanager
def _nameless(directory: Path) -> Iterator[tuple[int, bool]]:
    try:
        descriptor, direct = _open(directory, os.O_TMPFILE | os.O_RDWR)
    except OSError:  # not every file system supports O_TMPFILE
        descriptor, direct = _unlinked(directory), False
    try:
        yield descriptor, direct
    finally:
        os.close(descriptor)


def _unlinked(directory: Path) -> int:
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".neuronmodel-")
    Path(name).unlink()
    return descriptor


@contextmanager
def _block() -> Iterator[mmap.mmap]:
    """Allocates memory that is aligned for direct I/O."""
    with mmap.mmap(-1, BLOCK_BYTES) as block:
        yield block
