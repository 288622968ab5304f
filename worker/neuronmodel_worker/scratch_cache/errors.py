"""What can be wrong with the cache on the scratch volume. A start continues without it, and its report says why."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neuronmodel_api.reasons import Reason
from neuronmodel_worker.io.disk import FULL


class TierError(Exception):
    """`reason` is PascalCase and machine-readable; `str()` is a sentence."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TierFull(TierError):
    def __init__(self, message: str) -> None:
        super().__init__(Reason.SCRATCH_TIER_FULL, message)


class TierTooSmall(TierFull):
    def __init__(self, needed_bytes: int, writable_bytes: int) -> None:
        self.needed_bytes = needed_bytes
        self.writable_bytes = writable_bytes
        super().__init__(
            f"No copy is kept on the scratch volume: it takes {needed_bytes:,} bytes, {writable_bytes:,} may be "
            "written there, and copies that no worker uses don't make up for it. Enlarge the volume."
        )


class TierDamaged(TierError):
    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            Reason.SCRATCH_TIER_DAMAGED,
            f"The copy {path} on the scratch volume was not used and is removed: {what}. A new one is made on the way.",
        )


class TierUnlike(TierError):
    """A copy that may have been loaded has another content than its source lists."""

    def __init__(self, path: Path, file: str) -> None:
        super().__init__(
            Reason.SCRATCH_TIER_DAMAGED,
            f"The copy {path} on the scratch volume is removed: {file} in it is not what the source lists. What this "
            "worker has loaded may be wrong as well: delete its pod, and the next start reads the source again.",
        )


class TierStale(TierError):
    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            Reason.SCRATCH_TIER_STALE, f"The copy {path} on the scratch volume was not used and is removed: {what}."
        )


class OriginalChanged(TierError):
    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            Reason.SCRATCH_TIER_STALE,
            f"No copy is kept on the scratch volume this time, for {path} changed while it was copied: {what}.",
        )


class OriginalUnreadable(TierError):
    def __init__(self, why: str) -> None:
        super().__init__(Reason.SCRATCH_TIER_STALE, f"No copy is kept on the scratch volume this time. {why}")


class TierUnwritable(TierError):
    def __init__(self, path: Path, error: OSError) -> None:
        self.what = f"{path} cannot be written: {error.strerror or error}"
        super().__init__(
            Reason.SCRATCH_TIER_UNWRITABLE,
            f"No copy is kept on the scratch volume, for {self.what}. Check the volume, and that the pod's user and "
            "group may write to it.",
        )


@contextmanager
def writing_copy(path: Path) -> Iterator[None]:
    """Turns OSError from writing below `path` into TierFull or TierUnwritable."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise TierFull(
                f"No copy is kept on the scratch volume: it became full while {path} was written."
            ) from error
        raise TierUnwritable(Path(error.filename or path), error) from error
