"""Helpers for messages: length limits, removal of values that differ each time, and times."""

import re
from datetime import datetime
from typing import Final

MAX_MESSAGE: Final = 600

_UNSTABLE: Final = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "…"),
        (r"\b0x[0-9a-fA-F]+\b", "0x…"),
        (r"\b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|\b ?[+-]\d\d:?\d\d\b)?", "…"),
        (r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b", "…"),
        (r"\b(pid|PID|tid|TID|process|Process|thread)([ =:#]+|\s?\[)\d+\b", r"\1\2…"),
        (r"\b(Process|Thread|ForkPoolWorker|SpawnProcess)-\d+\b", r"\1-…"),
        (r"(thread '.*') \(\d+\)", r"\1"),
        (r"(\w)\[\d+\]:", r"\1:"),
        (r"^(\w*sh): (?:line )?\d+: ", r"\1: "),
        (r": +\d+ (?=(?:Aborted|Segmentation fault|Illegal instruction|Bus error|Killed|Terminated)\b)", ": "),
        (r"\btmp[a-z0-9_]{8}\b|\btmp\.\w{6,10}\b", "tmp…"),
        (r"\b((?:\d{1,3}\.){3}\d{1,3}):\d{5}\b", r"\1:…"),
        (r"\b\d+\.\d+ ?(seconds|secs?|s)\b|\b\d+(?:\.\d+)? ?(ms|µs|us|ns)\b", r"… \1\2"),
        (r"\b\d{13,}\b", "…"),
    )
)
"""Values that differ from run to run: identifiers, addresses, times, durations, processes, ports and temporary
files."""


def shortened(text: str, limit: int = MAX_MESSAGE) -> str:
    """Returns the text on one line, at most `limit` characters long."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sentence(text: str, limit: int = MAX_MESSAGE) -> str:
    """Returns the text within the limit, with exactly one full stop."""
    return f"{shortened(text, limit).removesuffix('.')}."


def moment(at: datetime) -> str:
    """Returns the time as Kubernetes formats it."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def stable(text: str) -> str:
    """Returns the text without values that differ each time: a message that changes would cause a write of the status
    each time."""
    for pattern, put in _UNSTABLE:
        text = pattern.sub(put, text)
    return text
