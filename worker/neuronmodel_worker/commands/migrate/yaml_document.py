"""Writes a NeuronModel as YAML the way a person would: block style, short lists on one line, comments above keys."""

import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from neuronmodel_worker.commands.terminal import on_one_line

WIDTH: Final = 120
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[1-9][0-9]*[KMGT]i", re.ASCII)
RESERVED: Final = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})
"""Words that some YAML readers do not take for strings."""
ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


@dataclass(frozen=True)
class Commented:
    """A value with a comment above it."""

    value: Any
    comment: str


def lines_of(fields: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yields the lines of a mapping in block style."""
    for key, commented in fields.items():
        value = commented.value if isinstance(commented, Commented) else commented
        if isinstance(commented, Commented):
            yield from comment_lines(commented.comment, indent)
        if isinstance(value, Mapping) and value:
            yield f"{indent}{scalar(key)}:"
            yield from lines_of(value, f"{indent}  ")
        elif isinstance(value, list) and value:
            yield f"{indent}{scalar(key)}:"
            for item in value:
                if isinstance(item, Commented):
                    yield from comment_lines(item.comment, f"{indent}  ")
                yield f"{indent}  - {flow(item.value if isinstance(item, Commented) else item)}"
        else:
            yield f"{indent}{scalar(key)}: {flow(value)}"


def comment_lines(text: str, indent: str = "", bullet: str = "") -> Iterator[str]:
    """Yields the text as comment lines."""
    wrapper = textwrap.TextWrapper(
        WIDTH,
        initial_indent=f"{indent}# {bullet}",
        subsequent_indent=f"{indent}# {' ' * len(bullet)}",
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield from map(on_one_line, wrapper.wrap(text))


def flow(value: Any) -> str:
    """Formats a value on one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{scalar(key)}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(flow, value))}]"
    return scalar(value)


def scalar(value: Any) -> str:
    """Formats a scalar; a string gets quotes if it needs them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in RESERVED:
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _float(value: float) -> str:
    """Formats a float with the decimal point that YAML 1.1 requires before an exponent."""
    assert math.isfinite(value)
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"


def _escaped(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
