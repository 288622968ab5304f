"""Summarizes the end of a crashed container's log in one line.

Kubernetes keeps the last 80 lines or 2048 bytes of it, cut anywhere. The last line is rarely the informative one: a
Python that cannot start ends with a frame, a Go program with a stack.

The text is shown in a condition, so it must be the same for all runs that end alike; otherwise every restart would
cause a write.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from neuronmodel_operator.wording import shortened, stable

MAX_GIST: Final = 300
MAX_PART: Final = 220
"""The most characters of the first of several lines, so that the others fit too."""
MAX_LINES: Final = 3
"""How many lines to go back from a last line that is not informative by itself."""

_PREFIXES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        r"\((?:\w+ )?pid=\d+\) ?",  # vLLM and Ray, of their processes
        r"\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)? ?(?:Z|[+-]\d\d:?\d\d)?\]? ?",
        r"\d{4}-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d\.\d+ +\d+:\d+ +",  # the Neuron Runtime
        r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (?:[\w./-]+:\d+\] )?",  # klog and glog
        r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? (?:\[[\w./-]+:\d+\] ?)?",  # vLLM
    )
)
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GROUP_MARK: Final = re.compile(r"\s*[|+](?:-\+)?(?:-+(?: (?:\d+|\.\.\.) -+)?)?(?: |$)")
"""The prefix of each line of an exception group."""

_FRAMES: Final = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\)|\s*File \".*\", line \d+")
_DUMP: Final = re.compile(r"Current thread 0x\S+.*\(most recent call first\)")
"""The dump of the thread that failed, by faulthandler."""
_DUMPED_FRAME: Final = re.compile(r"\s+File \"(?P<file>.*)\", line (?P<line>\d+) in (?P<function>\S+)")
_STACK: Final = re.compile(
    r"Thread 0x\S+.*\(most recent call first\)|goroutine \d+ .*:$|stack backtrace:$|\*\*\* Check failure stack trace"
    r"|C\+\+ CapturedTrace"
)
"""Everything that follows, up to an empty line, is frames."""
_UNRAISABLE: Final = re.compile(r"Exception ignored in\b")
"""What follows did not end the process."""
_SAYS_NOTHING: Final = re.compile(
    r"""\W*$|\s*<no\ Python\ frame>|Python\ runtime\ state:|Extension\ modules:
    |Exception\ raised\ from\ .*most\ recent\ call\ first
    |(?:During\ handling|The\ above\ exception)\ .*exception
    |\[signal\ SIG\w+|\[recovered\]|exit\ status\ \d+$|created\ by\ |\t\S+\.go:\d+
    |note:\ (?:run\ with|Some\ details\ are)|\s*\#?\d+[: ]\s+0x[0-9a-f]+|\s*frame\ \#\d+:|\s+@\s+0x
    |make(?:\[\d+\])?:\ \*\*\*|.*\d+%\|""",
    re.VERBOSE,
)
_CAUSE: Final = re.compile(
    r"""Fatal\ Python\ error:|panic:\ |\s*panic:\ |fatal\ error:\ |terminate\ called|libc\+\+abi:
    |(?:thread\ '.*'\ (?:\(\d+\)\ )?)panicked\ at
    |.*:\ Assertion\ .*failed|\*\*\*\ .*\ \*\*\*:\ terminated|double\ free\ or\ corruption
    |(?:free|malloc|realloc|munmap_chunk|malloc_consolidate)\(\):\ |corrupted\ (?:size|double-linked)
    |.*error\ while\ loading\ shared\ libraries:|.*symbol\ lookup\ error:""",
    re.VERBOSE,
)
_EXCEPTION: Final = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Group|Iteration)(?::|$)")
_HOW_ALONE: Final = re.compile(
    r"""(?:.*[:\s])?(?:Aborted|Segmentation\ fault|Illegal\ instruction|Bus\ error|Killed|Terminated
    |Floating\ point\ exception|Trace/breakpoint\ trap)(?:\ \(core\ dumped\))?(?:\s{2,}.*)?$
    |(?:error|failed|failure|exiting|stopping|stopped|shutting\ down|bye|done|goodbye)\W*$
    |(?:command\ terminated\ with\ |process\ exited\ with\ )?exit\ code:?\ -?\d+\.?$""",
    re.VERBOSE | re.IGNORECASE,
)
"""Lines that say how the process ended but not why."""


@dataclass(frozen=True)
class _Part:
    """A line, joined with its continuation lines."""

    text: str
    is_cause: bool = False

    @property
    def is_fatal_of_python(self) -> bool:
        return self.text.startswith("Fatal Python error:")


def gist(log: str) -> str:
    """Returns the summary of a log; empty if the log is not informative."""
    parts = _parts(_cleaned(line) for line in log.splitlines())
    first, *others = dict.fromkeys(stable(part.text) for part in _chosen(parts)) or [""]
    return shortened("; ".join([shortened(first, MAX_PART) if others else first, *others]), MAX_GIST)


def _cleaned(line: str) -> str:
    """Removes the prefixes of loggers and exception groups; indentation is kept, as it matters."""
    line = _COLOURS.sub("", line.rstrip())
    for prefix in _PREFIXES:
        if found := prefix.match(line):
            line = line[found.end() :]
    if found := _GROUP_MARK.match(line):
        line = line[found.end() :]
    return _json_message(line) if line.startswith("{") else line


def _json_message(line: str) -> str:
    """Returns the message of a JSON log line; empty for a worker's report, which is not informative here."""
    try:
        fields = json.loads(line)
    except ValueError:
        return ""
    return next((fields[name] for name in ("message", "msg", "error", "err") if isinstance(fields.get(name), str)), "")


def _parts(lines: Iterable[str]) -> list[_Part]:
    reader = _Reader()
    for line in lines:
        reader.read(line)
    return reader.parts


class _Reader:
    """Reads a log from its first line, and keeps what is neither frames nor noise."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self._within = ""
        """The block that is being read: Traceback, Dump, Stack or Ignored; empty if none."""
        self._continues = False

    def read(self, line: str) -> None:
        if _CAUSE.match(line):
            self._take(line, is_cause=True)
        elif _UNRAISABLE.match(line):
            self._enter("Ignored")
        elif _DUMP.match(line):
            self._enter("Dump")
        elif _STACK.match(line):
            self._enter("Stack")
        elif self._within == "Ignored":
            self._within = "Ignored" if _FRAMES.match(line) or line[:1].isspace() else ""
        elif self._within == "Stack":
            self._within = "Stack" if line else ""
        elif self._within == "Dump" and (found := _DUMPED_FRAME.match(line)):
            self._place(found)
        elif _FRAMES.match(line):
            self._enter("Traceback")
        elif self._within == "Traceback" and line[:1].isspace():
            pass
        elif _SAYS_NOTHING.match(line):
            self._continues = self._continues and bool(line)
        elif self._continues and (line[:1].isspace() or self.parts[-1].text.endswith(":")):
            self._append(f" {line.strip()}")
        else:
            self._take(line, is_cause=self._within == "Traceback" or bool(_EXCEPTION.match(line)))

    def _enter(self, what: str) -> None:
        self._within, self._continues = what, False

    def _take(self, line: str, *, is_cause: bool) -> None:
        self._within, self._continues = "", True
        self.parts.append(_Part(line.strip(), is_cause))

    def _append(self, text: str) -> None:
        last = self.parts.pop()
        self.parts.append(_Part(f"{last.text}{text}", last.is_cause))

    def _place(self, found: re.Match[str]) -> None:
        """Adds the first frame of a dump, which is where a fatal error of Python happened."""
        last = self.parts[-1] if self.parts else None
        if last and last.is_fatal_of_python and ", in " not in last.text:
            file = "/".join(found["file"].split("/")[-2:])
            self._append(f", in {found['function']} ({file}:{found['line']})")


def _chosen(parts: Sequence[_Part]) -> Sequence[_Part]:
    """Returns the last cause, and the last line if that is another one; without any cause, the last informative
    line."""
    cause = next((place for place in reversed(range(len(parts))) if parts[place].is_cause), None)
    if cause is None:
        return _last_lines(parts)
    first = cause - 1 if cause and _is_one_story(parts[cause - 1], parts[cause]) else cause
    later = [part for part in parts[cause + 1 :] if not _HOW_ALONE.match(part.text)]
    return [*parts[first : cause + 1], *later[-1:]]


def _is_one_story(before: _Part, after: _Part) -> bool:
    """Whether two causes belong together: Python prints the exception after its fatal error, and the cause of an abort
    before."""
    return before.is_cause and (before.is_fatal_of_python or after.is_fatal_of_python)


def _last_lines(parts: Sequence[_Part]) -> Sequence[_Part]:
    """Returns the lines from the end back to one that says more than how the process ended."""
    for count in range(1, min(MAX_LINES, len(parts)) + 1):
        if not _HOW_ALONE.match(parts[-count].text):
            return parts[-count:]
    return parts[-MAX_LINES:]
