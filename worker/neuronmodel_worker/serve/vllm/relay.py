"""What our plugin tells from vLLM's process: lines of JSON that it appends to a file, and the worker reads.

A `RelayClock` stands where a start's clock stands, so that what loads weights in the worker itself does so over there.
One phase is under way at a time; to begin one ends the one before.
"""

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from neuronmodel_api.report import DiskRates, Stage, Tier
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.report.clock import FirstLine, RunningPhase, StartClock

PROGRESS_SECONDS: Final = 0.1
LAST_CHARACTERS: Final = 20_000
"""Of a traceback: its end says what happened."""


class RelayedFailure(WorkerFailure):
    """One of ours, as it was raised in vLLM's process."""

    def __init__(self, reason: str, message: str, exit_code: int) -> None:
        self.reason = reason
        self.exit_code = exit_code
        super().__init__(message)


class RelayWriter:
    """Each line is one write to a file that is opened for appending, so that lines are never torn."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        os.write(self._descriptor, f"{json.dumps({'event': event, **fields})}\n".encode())

    def failed(self, error: BaseException) -> None:
        """Ours with its reason; of others the traceback, for what they mean is told from their text."""
        if isinstance(error, WorkerFailure):
            self.write("failure", reason=error.reason, message=str(error), exit_code=error.exit_code)
        else:
            self.write("error", text="".join(traceback.format_exception(error))[-LAST_CHARACTERS:])


class RelayClock(StartClock):
    def __init__(self, writer: RelayWriter) -> None:
        super().__init__(Stage.SERVE, FirstLine.now())
        self._writer = writer

    @contextmanager
    def phase(self, name: str, total: int | None = None, unit: str = "Bytes") -> Iterator[RunningPhase]:
        self.begin(name, total, unit)
        phase = RelayedPhase(self._writer, name, unit, total)
        try:
            yield phase
        finally:
            self._writer.write("end", done=phase.done, before=phase.before, busy=phase.busy_milliseconds)

    def begin(self, name: str, total: int | None = None, unit: str = "Bytes") -> None:
        """A phase that ends with the next one."""
        self._writer.write("begin", name=name, total=total, unit=unit)

    def served_from(self, tier: Tier) -> None:
        self._writer.write("tier", tier=tier)

    def measured(self, disk: DiskRates) -> None:
        self._writer.write("disk", disk=disk.to_json())

    def note(self, reason: str, message: str) -> None:
        self._writer.write("note", reason=reason, message=message)


class RelayedPhase(RunningPhase):
    """Tells of its progress now and then."""

    def __init__(self, writer: RelayWriter, name: str, unit: str, total: int | None) -> None:
        super().__init__(name, unit, total)
        self._writer = writer
        self._written_at = time.monotonic()

    def advance(self, count: int) -> None:
        super().advance(count)
        self._write_progress()

    def reach(self, done: int, total: int | None = None) -> None:
        super().reach(done, total)
        self._write_progress()

    def _write_progress(self) -> None:
        if (now := time.monotonic()) - self._written_at >= PROGRESS_SECONDS:
            self._written_at = now
            self._writer.write("progress", done=self.done, total=self.total)


class RelayReader:
    """Puts into the worker's clock what is told, from `begin` to `end`."""

    def __init__(self, file: Path, clock: StartClock) -> None:
        self._file = file
        self._clock = clock
        self._read = 0
        self._current: tuple[RunningPhase, AbstractContextManager[RunningPhase]] | None = None
        self.begun: list[str] = []
        self.failure: RelayedFailure | None = None
        self.error = ""
        """What an exception says that is none of ours."""
        self._events: Mapping[str, Callable[..., None]] = {
            "begin": self.begin, "progress": self._progress, "end": self._end, "tier": clock.served_from,
            "disk": self._disk, "note": clock.note, "failure": self._failure, "error": self._error,
        }  # fmt: skip

    def read(self) -> None:
        """All whole lines that were written since the last time."""
        try:
            with self._file.open("rb") as stream:
                stream.seek(self._read)
                written = stream.read()
        except FileNotFoundError:
            return
        whole = written[: written.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            self._events[event.pop("event")](**event)

    def begin(self, name: str, total: int | None = None, unit: str = "Bytes") -> None:
        self.end()
        manager = self._clock.phase(name, total, unit)
        self._current = manager.__enter__(), manager
        self.begun.append(name)

    def end(self) -> None:
        """Whatever is under way."""
        if self._current:
            self._current[1].__exit__(None, None, None)
            self._current = None

    def _progress(self, done: int, total: int | None) -> None:
        if self._current:
            self._current[0].reach(done, total)

    def _end(self, done: int, before: int, busy: int | None) -> None:
        if self._current:
            phase = self._current[0]
            phase.found(before)
            phase.reach(done)
            phase.busy_milliseconds = busy
        self.end()

    def _disk(self, disk: dict[str, Any]) -> None:
        self._clock.measured(DiskRates.model_validate(disk))

    def _failure(self, reason: str, message: str, exit_code: int) -> None:
        self.failure = RelayedFailure(reason, message, exit_code)

    def _error(self, text: str) -> None:
        self.error = text
