"""Leases: who builds a set, so that nobody else does the same work. Nothing is wrong when two build it after all.

    leases/<kind>-<key>     JSON of the holder, renewed in place; its holder keeps the file open and locked

A lease is taken over when its holder's lock says that it is dead, or when it has not changed for a while by the
waiter's own clock. Whoever lost it writes on into a file that has no name any more, which harms nobody.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from neuronmodel_worker.store.locks import LeaseTimings, holder, is_at, take, writer_is_dead

Waiting = Callable[[str, float], None]
"""Called at every look with who holds the lease and for how many seconds that has been waited for; may raise."""

T = TypeVar("T")
MAX_BYTES = 4096


class Lease:
    """Held from `acquire` on until `release`, or until somebody takes it over."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._beats = 0
        self._write()

    @property
    def lost(self) -> bool:
        """Whether somebody took it over: what this holder builds is then built twice."""
        return not is_at(self._descriptor, self.path)

    def renew(self) -> None:
        with suppress(OSError):  # of a volume in trouble, which whoever writes will meet as well
            self._write()

    def _write(self) -> None:
        """Over what stands there, at the same length; synced, so that other nodes see it soon."""
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
    """The lease, once it is free, or what `done` says before."""
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
            _take_away(path, seen)
            continue
        if waiting:
            waiting(_named(seen), timings.clock() - began)
        timings.pause(timings.poll_seconds)


def abandon(path: Path) -> None:
    """After a signal that came between a lease's making and its coming back from `acquire`: an empty one of somebody
    else is made anew, and otherwise none is touched but this process's own."""
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
        os.close(descriptor)  # somebody cleared it up between its making and its locking
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


def _take_away(path: Path, seen: bytes) -> None:
    """Remove the lease that was seen, and no other that took its place meanwhile."""
    apart = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        path.rename(apart)
    except FileNotFoundError:
        return
    if _read(apart) != seen:
        with suppress(OSError):  # where there are no links, or a third one was quicker, work is done twice at worst
            os.link(apart, path)
    apart.unlink(missing_ok=True)


def _named(seen: bytes) -> str:
    try:
        content = json.loads(seen)
        return f"process {content['pid']} on {content['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that has not said who it is"
