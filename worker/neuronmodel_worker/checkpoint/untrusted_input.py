"""What is asked of files and of JSON that nobody vouches for: that they end, fit into memory and can be quoted."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path

# Keys and elements that are made into objects, each 30 to 120 bytes of memory. The library has no such limit: a header
# of so many would describe 500,000 tensors in one file.
MAX_VALUES = 4_000_000
# How deep the library's JSON parser follows arrays and objects into each other.
MAX_DEPTH = 127
MAX_INTEGER = 2**64 - 1
MAX_DIGITS = len(str(MAX_INTEGER))
SHOWN = 160


class NotAFile(Exception):
    """A directory, a pipe or a device."""


def open_regular(path: Path) -> BufferedReader:
    """Open for reading without waiting for anybody, as a pipe would have it. Raises NotAFile and OSError."""
    try:
        stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except IsADirectoryError as error:
        raise NotAFile from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise NotAFile
    return stream


def shown(value: object) -> str:
    """`value` for a sentence: on one line, printable and not too long."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first of `names` for a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def has_too_many_values(text: bytes) -> bool:
    """Each value but the first follows a bracket or a comma; those in strings count too, as no parsing is done."""
    return len(text) > MAX_VALUES and sum(text.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES


def walk(value: object) -> Iterator[tuple[object, int]]:
    """Every key and value in `value`, itself included, with the number of arrays and objects around it."""
    levels: list[Iterator[object]] = [iter((value,))]
    while levels:
        for each in levels[-1]:
            yield each, len(levels) - 1
            if isinstance(each, dict | list):
                levels.append(chain(each, each.values()) if isinstance(each, dict) else iter(each))
                break
        else:
            levels.pop()


def is_nested_too_deep(value: object, around: int = 0) -> bool:
    """`around`: how many arrays and objects it stands in."""
    return any(isinstance(each, dict | list) and around + depth >= MAX_DEPTH for each, depth in walk(value))


def integer(text: str) -> int | float:
    """Of 64 bits; anything longer is a number with a fraction to the library, and so is minus zero."""
    return float(text) if text == "-0" or len(text) > MAX_DIGITS else int(text)


_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def has_half_a_character(text: bytes, parsed: object) -> bool:
    """Whether a string holds one of two surrogates without the other, which no UTF-8 text can: neither a file's name
    nor a message."""
    if not _SURROGATE_ESCAPE.search(text):
        return False
    return any(isinstance(each, str) and _SURROGATE.search(each) for each, _ in walk(parsed))
