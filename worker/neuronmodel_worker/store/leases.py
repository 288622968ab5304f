"""Leases: who builds a set, so that nobody else does the same work. Two writers of one set do no harm.

    leases/<kind>-<key>     JSON of the holder, renewed in place; its holder keeps the file open and locked

A lease is taken over when its holder's lock shows that it is dead, or when it has not changed for a while by the
waiter's own clock. A holder that lost its lease writes on into a file without a name, which harms nobody.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from neuronmodel_worker.store.locks import LeaseTimings, holder, is_at, take, writer_is_dead

Waiting = Callable[[str, float], None]
"""Is called at every poll with the holder of the lease and the seconds that it has been waited for; it may raise."""

T = TypeVar("T")
MAX_BYTES = 4096


class Lease:
    """A lease that is held from `acquire` until `release`, or until somebody takes it over."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._beats = 0
        self._write()

    @property
    def lost(self) -> bool:
        """Whether somebody has taken it over, so that the set is built twice."""
        return not is_at(self._descriptor, self.path)

    def renew(self) -> None:
        with suppress(OSError):  # a broken volume is reported by whoever writes the set
            self._write()

    def _write(self) -> None:
        """Overwrite the file at the same length, synced, so that other nodes see it soon."""
        self._beats += 1
        os.pwrite(self._descriptor, json.dumps({**holder(), "beats": f"{self._beats:012}"}).encode(), 0)
        os.fsync(self._descriptor)

    def release(self) -> None:
        if not self.lost:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)


def acquire(
    path: Path, timings: LeaseTimings, done: Callable[[], T | None], waiting: Waiting | None = None
) -> Lease | T:
    """Wait for the lease, or until `done` returns something. Returns either."""
    began = since = timings.clock()
    watched: bytes | None = None
    while True:
        if (lease := _create(path)) is not None:
            return lease
        if (found := done()) is not None:
            return found
        if (seen := _read(path)) is None:
            continue
        if seen != watched:
            watched, since = seen, timings.clock()
        unchanged = timings.clock() - since
        if unchanged >= timings.lapse_seconds or _is_abandoned(path, timings):
            _remove_seen(path, seen)
            continue
        if waiting:
            waiting(_holder_name(seen), timings.clock() - began)
        timings.pause(timings.poll_seconds)


def abandon(path: Path) -> None:
    """Remove this process's own lease after a signal that came before `acquire` returned it. An empty lease is removed
    too: if it is another process's, that one creates it again."""
    try:
        content = json.loads(_read(path) or b"{}")
    except (OSError, ValueError):
        return
    if not content or holder().items() <= content.items():
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _create(path: Path) -> Lease | None:
    path.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
    except FileExistsError:
        return None
    try:
        os.fchmod(descriptor, 0o660)
        take(descriptor)
        if is_at(descriptor, path):
            return Lease(path, descriptor)
        os.close(descriptor)  # a clean-up removed it before it was locked
        return None
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(descriptor)
        raise


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except FileNotFoundError:
        return None


def _is_abandoned(path: Path, timings: LeaseTimings) -> bool:
    with writer_is_dead(path, timings) as dead:
        return dead


def _remove_seen(path: Path, seen: bytes) -> None:
    """Remove the lease that was seen, but not one that has replaced it meanwhile."""
    renamed = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        path.rename(renamed)
    except FileNotFoundError:
        return
    if _read(renamed) != seen:
        with suppress(OSError):  # without hard links, or with a third writer, a set is built twice at worst
            os.link(renamed, path)
    renamed.unlink(missing_ok=True)


def _holder_name(seen: bytes) -> str:
    try:
        content = json.loads(seen)
        return f"process {content['pid']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said who it is"
