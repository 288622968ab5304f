"""In which part of their keys two sets differ, in words for `status` and for people."""

from collections.abc import Iterator, Mapping

MAX_DIFFERENCES = 4
MAX_VALUE = 60
ABSENT = object()


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
            yield "source: the content of the weights differs"
        elif old != new:
            yield f"{path}{name} {_was(old)} and {_is(new)}"


def _was(value: object) -> str:
    return "was not there" if value is ABSENT else f"was {_shown(value)}"


def _is(value: object) -> str:
    return "is not there" if value is ABSENT else f"is {_shown(value)}"


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
