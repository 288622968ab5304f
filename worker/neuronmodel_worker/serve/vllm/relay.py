"""What our plugin reports from vLLM's process: lines of JSON that it appends to a file, which the worker reads.

A `RelayClock` takes the place of the start's clock, so that the code that loads weights runs unchanged in vLLM's
process. One phase is in progress at a time; beginning one ends the one before.
"""

import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from neuronmodel_api.report import DiskRates, SourceTraffic, Stage, Tier
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.report.clock import FirstLine, RunningPhase, StartClock

PROGRESS_SECONDS: Final = 0.1
LAST_CHARACTERS: Final = 20_000
"""How much of a traceback is relayed: its end says what happened."""


class RelayedFailure(WorkerFailure):
    """A WorkerFailure that was raised in vLLM's process."""

    def __init__(self, reason: str, message: str, exit_code: int) -> None:
        self.reason = reason
        self.exit_code = exit_code
        super().__init__(message)


class RelayWriter:
    """Appends events to the file. Each line is a single write to a file opened for appending, so lines are never
    torn."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: str, **fields: Any) -> None:
        os.write(self._descriptor, f"{json.dumps({'event': event, **fields})}\n".encode())

    def failed(self, error: BaseException) -> None:
        """Relays a WorkerFailure with its reason, and any other exception as a traceback, whose text is classified
        later."""
        if isinstance(error, WorkerFailure):
            self.write("failure", reason=error.reason, message=str(error), exit_code=error.exit_code)
        else:
            self.write("error", text="".join(traceback.format_exception(error))[-LAST_CHARACTERS:])


class QuietWriter(RelayWriter):
    """Relays failures alone: where several processes load, one of them reports the phases."""

    def write(self, event: str, **fields: Any) -> None:
        if event in ("failure", "error"):
            super().write(event, **fields)


class LoadHookFailed(RuntimeError):
    """A failure in vLLM's process that has been reported to the worker already."""


@contextmanager
def reporting_failures(writer: RelayWriter) -> Iterator[None]:
    """Reports any exception to the worker, and raises LoadHookFailed in its place."""
    try:
        yield
    except LoadHookFailed:
        raise
    except Exception as error:
        writer.failed(error)
        raise LoadHookFailed(f"{type(error).__name__}: {error}") from error


class RelayClock(StartClock):
    """A start's clock that relays everything to the worker."""

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
            self._write_traffic()
            self._writer.write("end", done=phase.done, before=phase.before, busy=phase.busy_milliseconds)

    def begin(self, name: str, total: int | None = None, unit: str = "Bytes") -> None:
        """Begins a phase that ends when the next one begins."""
        self._writer.write("begin", name=name, total=total, unit=unit)

    def served_from(self, tier: Tier) -> None:
        self._writer.write("tier", tier=tier)

    def measured(self, disk: DiskRates) -> None:
        self._writer.write("disk", disk=disk.to_json())

    def note(self, reason: str, message: str, instead_of: Iterable[str] = ()) -> None:
        self._writer.write("note", reason=reason, message=message)

    def _write_traffic(self) -> None:
        if traffic := self._traffic():
            self._writer.write("traffic", traffic=traffic.to_json())


class RelayedPhase(RunningPhase):
    """A phase that relays its progress from time to time."""

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
    """Puts the relayed events into the worker's clock, from `begin` to `end`."""

    def __init__(self, file: Path, clock: StartClock) -> None:
        self._file = file
        self._clock = clock
        self._read = 0
        self._current: tuple[RunningPhase, AbstractContextManager[RunningPhase]] | None = None
        self.begun: list[str] = []
        self.failure: RelayedFailure | None = None
        self.error = ""
        """The traceback of an exception that is not a WorkerFailure."""
        self._events: Mapping[str, Callable[..., None]] = {
            "begin": self.begin, "progress": self._progress, "end": self._end, "tier": clock.served_from,
            "disk": self._disk, "note": clock.note, "traffic": self._traffic, "failure": self._failure,
            "error": self._error,
        }  # fmt: skip

    def read(self) -> None:
        """Reads all complete lines that were written since the last call."""
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
        """Ends the phase in progress."""
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

    def _traffic(self, traffic: dict[str, Any]) -> None:
        """What the plugin has read of a network: the worker itself, which opened the source before, reads no more."""
        found = SourceTraffic.model_validate(traffic)
        self._clock.reads_from(lambda: found)

    def _failure(self, reason: str, message: str, exit_code: int) -> None:
        self.failure = RelayedFailure(reason, message, exit_code)

    def _error(self, text: str) -> None:
        self.error = text
