"""Safetensors files that are right, nearly right or wrong in one place: seeds for the fuzzer and for the unit tests.

A header is kept as text in a tree, numbers as they are spelt and keys as often as they occur, so that what a JSON
library would smooth out survives a mutation.
"""

import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod

from neuronmodel_worker.checkpoint import DTYPE_BITS
from tests.safetensors_bytes import with_header

# More than this behind the header would test the file system alone.
MAX_DATA_BYTES = 4096


class Literal(str):
    """A number or a word of JSON, as it is spelt."""


@dataclass
class Object:
    """Pairs, so that a key can occur twice; a key is a Literal if it brings its own quotes and escapes."""

    pairs: list[tuple[str, "Node"]] = field(default_factory=list)


Node = Object | list["Node"] | str

INTEGERS = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "16", "100", "-0", "-1", "-2", "00", "01", "+1", "0x1", "1_0",
    "4294967296", "1152921504606846976", "2305843009213693952", "4611686018427387904", "9223372036854775807",
    "9223372036854775808", "9223372036854775809", "18446744073709551608", "18446744073709551614",
    "18446744073709551615", "18446744073709551616", "100000000000000000000", "-9223372036854775808",
    "-9223372036854775809", "1" + "0" * 400, "9" * 5000,
]  # fmt: skip
FRACTIONS = [
    "0.0", "1.0", "2.0", "8.0", "0e0", "1e0", "8e0", "1E+0", "1e-1", "-0.0", "1.", ".5", "1e", "1e400", "-1e400",
    "1e-400", "0e99999999999", "1e99999999999", "0." + "0" * 400 + "1e400",
]  # fmt: skip
WORDS = ["null", "true", "false", "NaN", "Infinity", "-Infinity", "nul", "True", "undefined", ""]
STRINGS = [
    "", "a", "F32", "dtype", "__metadata__", "é", "\U0001f600", "\x7f", "a/b", "\u2028", "\ufeff", "\\", '"', "\n",
    Literal('"\\ud800"'), Literal('"\\udc00"'), Literal('"\\ud83d\\ude00"'), Literal('"\\ud83d\\ud83d\\ude00"'),
    Literal('"\\uD83D\\u0041"'), Literal('"\\ude00\\ud83d"'), Literal('"\\\\ud800"'), Literal('"\\u0000"'),
    Literal('"\\u00e"'), Literal('"\\x41"'), Literal('"\\/"'), Literal('"\t"'), Literal('"\x00"'), Literal('"\x1f"'),
    Literal("'a'"), Literal('"a'), Literal('"\\u005f_metadata__"'), Literal('"d\\u0074ype"'),
]  # fmt: skip
DTYPES = [*DTYPE_BITS, "f32", "F33", "F8", "FLOAT", "bfloat16", "F32 ", "", "0"]
SPACES = [" ", "  ", "\n", "\t", "\r", "\0", "\x0b", "\x0c", "\xa0", "\u3000", "\ufeff", ",", "x", "{", "}", "[", "]",
          ":", '"', "/*a*/", "//"]  # fmt: skip


def dump(node: Node) -> str:
    if isinstance(node, Object):
        return "{" + ",".join(f"{dump(key)}:{dump(value)}" for key, value in node.pairs) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(dump, node)) + "]"
    return str(node) if isinstance(node, Literal) else json.dumps(node, ensure_ascii=False)


def parse(text: str) -> Node:
    """Raises ValueError or RecursionError."""
    parsed: Node = json.loads(
        text, object_pairs_hook=Object, parse_int=Literal, parse_float=Literal, parse_constant=Literal
    )
    return _with_words(parsed)


def _with_words(node: object) -> Node:
    if isinstance(node, Object):
        return Object([(key, _with_words(value)) for key, value in node.pairs])
    if isinstance(node, list):
        return [_with_words(each) for each in node]
    return node if isinstance(node, str) else Literal(json.dumps(node))


def entry(dtype: str, shape: list[int], start: int, stop: int) -> Object:
    return Object([("dtype", dtype), ("shape", numbers(*shape)), ("data_offsets", numbers(start, stop))])


def numbers(*values: int) -> list[Node]:
    return [Literal(value) for value in values]


def right_header(chance: random.Random) -> Object:
    """Tensors one after the other, listed in any order, with or without metadata."""
    pairs: list[tuple[str, Node]] = []
    end = 0
    for number in range(chance.choice([0, 1, 1, 2, 3, 5])):
        dtype, shape = chance.choice(list(DTYPE_BITS)), chance.choices([0, 1, 2, 3, 4, 8], k=chance.randrange(4))
        if prod(shape) * DTYPE_BITS[dtype] % 8:
            shape.append(4)
        start, end = end, end + prod(shape) * DTYPE_BITS[dtype] // 8
        pairs.append((f"t{number}", entry(dtype, shape, start, end)))
    chance.shuffle(pairs)
    if chance.random() < 0.4:
        metadata: list[tuple[str, Node]] = [("format", "pt")]
        pairs.insert(0, ("__metadata__", Object(metadata[: chance.randrange(2)])))
    return Object(pairs)


def file_of(header: str, chance: random.Random) -> bytes:
    """The header before the data that its largest offset asks for, now and then too much or too little of either."""
    raw = header.encode("utf-8", "surrogatepass")
    data = bytes(max(0, data_bytes_of(header) + chance.choice([0] * 30 + [1, -1])))
    length = len(raw) + chance.choice([0] * 60 + [1, -1, 8, 2**32, 100_000_001, 2**63, 2**64 - 1 - len(raw)])
    return with_header(raw, data, max(0, length) % 2**64)


def data_bytes_of(header: str) -> int:
    """The largest offset that the header names, where it is one that can be written."""
    try:
        nodes = list(walk(parse(header)))
    except (ValueError, RecursionError):
        return 0
    ends = [natural(node[1]) or 0 for node in nodes if isinstance(node, list) and len(node) > 1]
    return max((end for end in ends if end <= MAX_DATA_BYTES), default=0)


def walk(node: Node) -> Iterator[Node]:
    yield node
    children = [value for _, value in node.pairs] if isinstance(node, Object) else node
    if isinstance(children, list):
        for child in children:
            yield from walk(child)


def natural(node: Node) -> int | None:
    """The number that is spelt, if it is one that Python reads without complaint."""
    spelt = isinstance(node, Literal) and node.isascii() and node.isdigit() and len(node) < 100
    return int(str(node)) if spelt else None


def any_value(chance: random.Random) -> Node:
    return chance.choice(VALUES)(chance)


def _nested(chance: random.Random) -> Node:
    depth = chance.choice([1, 2, 3, 60, 123, 124, 125, 126, 127, 128, 130, 1100])
    opening, closing = chance.choice([("[", "]"), ('{"a":', "}")])
    return Literal(
        opening * depth + chance.choice(["", "1", "1e400"] if opening == "[" else ["1", "null"]) + closing * depth
    )


VALUES: list[Callable[[random.Random], Node]] = [
    lambda chance: Literal(chance.choice(INTEGERS)),
    lambda chance: Literal(chance.choice(INTEGERS)),
    lambda chance: Literal(chance.choice(FRACTIONS)),
    lambda chance: Literal(chance.choice(WORDS)),
    lambda chance: chance.choice(STRINGS),
    lambda chance: chance.choice(DTYPES),
    lambda chance: [any_value(chance) for _ in range(chance.randrange(4))],
    lambda chance: Object([(chance.choice(STRINGS), any_value(chance)) for _ in range(chance.randrange(3))]),
    lambda chance: Object([(chance.choice(DTYPES), Literal(chance.choice(["null", "null", "{}", "[]", "1"])))]),
    lambda chance: entry("F32", [2], 0, 8),
    lambda chance: ["F32", numbers(2), numbers(0, 8)],
    _nested,
]


def mutate_entry(header: Node, chance: random.Random) -> None:
    """Change one tensor's entry in place, where a parser could be too kind or too strict by one step."""
    entries = [value for _, value in header.pairs if isinstance(value, Object)] if isinstance(header, Object) else []
    fields = [each for each in entries if [key for key, _ in each.pairs] == ["dtype", "shape", "data_offsets"]]
    if fields:
        chosen = chance.choice(fields)
        chance.choice(STEPS)(chosen, chance)
        if chance.random() < 0.3:
            chance.shuffle(chosen.pairs)


def _respell_number(entry: Object, chance: random.Random) -> None:
    """0 becomes -0 or false, 2 becomes 2.0 or true, 8 becomes 9."""
    numbers_ = entry.pairs[chance.choice([1, 2, 2])][1]
    if isinstance(numbers_, list) and numbers_:
        at = chance.randrange(len(numbers_))
        was = numbers_[at]
        near = [str(number + step) for step in (1, -1)] if (number := natural(was)) is not None else ["0"]
        respelt = [f"-{was}", f"{was}.0", f"{was}e0", "true", "false", *near, chance.choice(INTEGERS)]
        numbers_[at] = Literal(chance.choice(respelt))


def _unknown_key(entry: Object, chance: random.Random) -> None:
    """Something that is read over, if it can be read."""
    telling: list[Node] = [Literal("NaN"), Literal("-Infinity"), Literal("1e400"), Literal("1" + "0" * 400)]
    telling += [Literal("[" * depth + "]" * depth) for depth in (124, 125, 125, 126)]
    value = chance.choice(telling) if chance.random() < 0.5 else any_value(chance)
    entry.pairs.insert(chance.randrange(4), (chance.choice(["x", *STRINGS]), value))


def _negative_sizes(entry: Object, chance: random.Random) -> None:
    """Two of them make a positive one."""
    entry.pairs[:] = [("dtype", "U8"), ("shape", numbers(-1, -2)), ("data_offsets", numbers(0, 2))]


def _dtype_as_object(entry: Object, chance: random.Random) -> None:
    entry.pairs[0] = ("dtype", Object([(str(entry.pairs[0][1]), Literal(chance.choice(["null", "null", "{}", "0"])))]))


def _other_dtype(entry: Object, chance: random.Random) -> None:
    entry.pairs[0] = ("dtype", chance.choice(DTYPES))


def _size_beyond_64_bits(entry: Object, chance: random.Random) -> None:
    """Nothing or much of it, by the order of dimensions; 2⁶⁴ bits exactly, or one element less."""
    sizes = chance.choice(
        [[0, 2**63, 4], [0, 2**32, 2**32], [2**60, 0, 2], [2**61], [2**61 - 1], [2**64 - 1, 0], [2**62, 4], [2**64, 0]]
    )
    chance.shuffle(sizes)
    nbytes = 0 if 0 in sizes else prod(sizes) % 2**64
    entry.pairs[:] = [("dtype", "U8"), ("shape", numbers(*sizes)), ("data_offsets", numbers(0, nbytes))]


def _broken_bytes(entry: Object, chance: random.Random) -> None:
    """The whole bytes that an odd number of 4- or 6-bit elements needs at least or at most."""
    dtype, count = chance.choice(["F4", "F6_E2M3", "F6_E3M2"]), chance.randrange(9)
    nbytes = count * DTYPE_BITS[dtype] // 8 + chance.randrange(2)
    entry.pairs[:] = [("dtype", dtype), ("shape", numbers(count)), ("data_offsets", numbers(0, nbytes))]


def _move(entry: Object, chance: random.Random) -> None:
    """A hole or an overlap: the right number of bytes at another place."""
    offsets, step = entry.pairs[2][1], chance.choice([1, 4, 8, -1, -4, -8])
    if isinstance(offsets, list):
        entry.pairs[2] = ("data_offsets", numbers(*(max(0, (natural(each) or 0) + step) for each in offsets)))


STEPS: list[Callable[[Object, random.Random], None]] = [
    _respell_number,
    _respell_number,
    _unknown_key,
    _unknown_key,
    _negative_sizes,
    _dtype_as_object,
    _other_dtype,
    _size_beyond_64_bits,
    _broken_bytes,
    _move,
]


def mutate_tree(header: Node, chance: random.Random) -> None:
    """Change one object or array of the tree in place."""
    places = [node for node in walk(header) if isinstance(node, Object | list)]
    if places:
        place = chance.choice(places)
        _mutate_items(place.pairs if isinstance(place, Object) else place, isinstance(place, Object), chance)


def _mutate_items(items: list, keyed: bool, chance: random.Random) -> None:  # type: ignore[type-arg]
    at = chance.randrange(len(items) + 1)
    what = chance.randrange(7)
    if what == 0 or at == len(items):
        items.insert(at, (chance.choice(STRINGS), any_value(chance)) if keyed else any_value(chance))
    elif what == 1:
        del items[at]
    elif what == 2:
        items.insert(chance.randrange(len(items) + 1), items[at])
    elif what == 3:
        items[at], items[0] = items[0], items[at]
    elif what == 4 and keyed and isinstance(items[at][1], Object):
        items[at] = (items[at][0], [value for _, value in items[at][1].pairs])
    elif what == 5 and keyed:
        items[at] = (chance.choice(STRINGS), items[at][1])
    else:
        items[at] = (items[at][0], any_value(chance)) if keyed else any_value(chance)


def mutate_text(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text) + 1)
    if chance.random() < 0.3:
        at = chance.choice([0, len(text)])
    return text[:at] + chance.choice([*SPACES, "\ufeff"]) + text[at + chance.choice([0, 0, 1]) :]


def mutate_file(content: bytes, seed: int) -> bytes:
    """Returns a file like `content`, or a new one where that has no header that could be changed."""
    chance = random.Random(seed)
    header: Node = right_header(chance)
    if chance.random() < 0.7 and (given := _header_in(content)) is not None:
        header = given
    for _ in range(chance.choice([0, 1, 1, 1, 2, 3])):
        chance.choice([mutate_entry, mutate_entry, mutate_tree])(header, chance)
    text = dump(header)
    if chance.random() < 0.15:
        text = mutate_text(text, chance)
    return file_of(text, chance)


def _header_in(content: bytes) -> Node | None:
    try:
        (length,) = struct.unpack("<Q", content[:8])
        return parse(content[8 : 8 + length].decode())
    except (ValueError, RecursionError, struct.error, OverflowError):
        return None


def seeds(count: int) -> Iterator[bytes]:
    """Always the same files: half of them right, the others changed in up to three places."""
    for seed in range(count):
        chance = random.Random(seed)
        yield file_of(dump(right_header(chance)), chance) if seed % 2 else mutate_file(b"", seed)
