"""What a host command prints: results on standard output, progress and failures on standard error."""

import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.units import duration, in_units

SECONDS_BETWEEN_LINES = 10.0
COLUMNS, LINES = 80, 24
"""The size of a terminal that does not report one."""

# Called with the bytes that are done.
Show = Callable[[int], None]


def show_any_name() -> None:
    """Makes file names printable in any terminal: characters that its encoding lacks are written as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_line(text: str) -> None:
    """Prints a line of the result. Raises BrokenPipeError if the reader is gone."""
    if not sys.stdout:
        return
    try:
        sys.stdout.write(f"{on_one_line(text)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WorkerFailure(f"Standard output cannot be written: {error.strerror}. Send it elsewhere.") from error


def print_note(command: str, text: str) -> None:
    """Prints a line on standard error, or nothing if that is closed."""
    if sys.stderr:
        with suppress(OSError):
            sys.stderr.write(f"neuronmodel {command}: {on_one_line(text)}\n")
            sys.stderr.flush()


def on_one_line(text: str) -> str:
    """Escapes what would break the line or control the terminal, and leaves other characters of file and tensor names
    as they are."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


@contextmanager
def progress(command: str, what: str, total: int, quiet: bool = False) -> Iterator[Show]:
    """Shows how many of `total` bytes are `what` ("written"): as a bar on a terminal, otherwise as a line from time to
    time."""
    if quiet or not sys.stderr:
        yield lambda done: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(command, total) as show:
            yield show
    else:
        yield ProgressLines(what, total, lambda text: print_note(command, text))


@contextmanager
def _bar(command: str, total: int) -> Iterator[Show]:
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread of its own
    tqdm.set_lock(threading.RLock())  # nor a lock for other processes
    wide = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    size: dict[str, Any] = {"dynamic_ncols": True} if wide else {"ncols": COLUMNS, "nrows": LINES}
    with tqdm(total=total, desc=command, unit="B", unit_scale=True, leave=False, **size) as bar:

        def show(done: int) -> None:
            bar.update(min(done, total) - bar.n)

        yield show


class ProgressLines:
    """Shows progress as lines of text, at most one in ten seconds."""

    def __init__(
        self, what: str, total: int, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._total = total
        self._write = write
        self._clock = clock
        self._began = self._last = clock()

    def __call__(self, done: int) -> None:
        now = self._clock()
        if now - self._last < SECONDS_BETWEEN_LINES or not done:
            return
        self._last = now
        speed = done / (now - self._began)
        left = duration(max(0, self._total - done) / speed)
        share = f"{min(done, self._total) / self._total:.0%}" if self._total else "all"
        self._write(
            f"{share}: {in_units(done)} of {in_units(self._total)} {self._what}, {in_units(speed)}/s, {left} left"
        )
