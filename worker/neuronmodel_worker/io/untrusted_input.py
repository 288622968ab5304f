"""Limits for files and JSON from untrusted sources: that they end, fit into memory and can be quoted."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path

# The keys and elements that become objects of 30 to 120 bytes each. The library has no such limit: a header with this
# many would describe 500,000 tensors in one file.
MAX_VALUES = 4_000_000
# How deep arrays and objects may be nested for the library's JSON parser.
MAX_DEPTH = 127
MAX_INTEGER = 2**64 - 1
MAX_DIGITS = len(str(MAX_INTEGER))
SHOWN = 160
_NUMBER = re.compile(r"[0-9]{1,18}")


class NotAFile(Exception):
    """A directory, a pipe or a device."""


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading without blocking, as a pipe would. Raises NotAFile and OSError."""
    try:
        stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except IsADirectoryError as error:
        raise NotAFile from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise NotAFile
    return stream


def shown(value: object) -> str:
    """`value` for a sentence: in one line, printable and not too long."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first few `names` for a sentence, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def has_too_many_values(text: bytes) -> bool:
    """Whether a JSON text has too many values. Each value but the first follows a bracket or a comma; those in strings
    count too, as nothing is parsed."""
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
    """Whether arrays and objects are nested too deep; `around` is how many of them contain `value`."""
    return any(isinstance(each, dict | list) and around + depth >= MAX_DEPTH for each, depth in walk(value))


def integer(text: str) -> int | float:
    """An integer of 64 bits; longer ones are floating-point numbers to the library, and so is minus zero."""
    return float(text) if text == "-0" or len(text) > MAX_DIGITS else int(text)


def natural_number(text: str | None) -> int | None:
    """The number that a text consists of, as a header has it; None for anything else."""
    return int(text) if text and _NUMBER.fullmatch(text := text.strip()) else None


_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def has_half_a_character(text: bytes, parsed: object) -> bool:
    """Whether a string contains an unpaired surrogate, which UTF-8 cannot encode, neither in a file's name nor in a
    message."""
    if not _SURROGATE_ESCAPE.search(text):
        return False
    return any(isinstance(each, str) and _SURROGATE.search(each) for each, _ in walk(parsed))
