"""In which part of their keys two sets differ, in words for `status` and for people."""

from collections.abc import Callable, Iterator, Mapping

MAX_DIFFERENCES = 4
MAX_VALUE = 60
ABSENT = object()
SOURCE_DIFFERS = "source: the content of the weights differs"


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """`layout.tp_degree was 2 and is 4`, one an input, the source first."""
    found = sorted(_differing(before, now, ""), key=lambda each: not each.startswith("source"))
    return found[:MAX_DIFFERENCES] + (
        [f"{len(found) - MAX_DIFFERENCES} more differ"] if found[MAX_DIFFERENCES:] else []
    )


def _differing(before: Mapping[str, object], now: Mapping[str, object], path: str) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, ABSENT), now.get(name, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{path}{name}.")
        elif path + name == "source" and old != new:
            yield SOURCE_DIFFERS
        elif old != new:
            shown = str if str(old) != str(new) else repr
            yield f"{path}{name} was {_said(old, shown)} and is {_said(new, shown)}"


def _said(value: object, shown: Callable[[object], str]) -> str:
    if value is ABSENT:
        return "not there"
    text = shown(value) or "empty"
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
