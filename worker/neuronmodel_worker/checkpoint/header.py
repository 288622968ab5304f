"""The header of a safetensors file, accepted exactly where the safetensors library (0.8) accepts it.

The library parses with serde_json, and what that accepts beyond the format's description is accepted here too: unknown
keys in a tensor's entry, an entry as an array in the order dtype, shape, offsets, a dtype as {"F32": null}. There are
three deliberate differences, which are refused only here:

- a key that occurs twice in one object: the format forbids it, the library takes the last one;
- more than `untrusted_input.MAX_VALUES` values: 100 MB of them would fill gigabytes;
- a number between 1.797e308 and infinity under an unknown key: whether it overflows depends on the parser's rounding.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isinf
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

import xxhash

from neuronmodel_worker.checkpoint.file_signatures import HEAD_BYTES, text_of
from neuronmodel_worker.checkpoint.files import refuse_identified
from neuronmodel_worker.failures import (
    CheckpointFileMissing,
    CheckpointHeaderInvalid,
    CheckpointTruncated,
    NotACheckpoint,
)
from neuronmodel_worker.io import untrusted_input
from neuronmodel_worker.io.untrusted_input import MAX_INTEGER, shown
from neuronmodel_worker.sources import SourceFile, Stream, WeightSource
from neuronmodel_worker.sources.folder import RegularFile

# Bits per element, by safetensors' own names. Sub-byte types exist: a tensor of them must fill whole bytes.
DTYPE_BITS: Mapping[str, int] = MappingProxyType(
    {
        "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
        "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
        "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
        "I32": 32, "U32": 32, "F32": 32,
        "C64": 64, "I64": 64, "U64": 64, "F64": 64,
    }
)  # fmt: skip

# The library's own limit.
MAX_HEADER_BYTES = 100_000_000

FIELDS = ("dtype", "shape", "data_offsets")

# Refuses a header with a sentence.
Refuse = Callable[[str], NoReturn]


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The place of a tensor's bytes: row-major, little-endian, `nbytes` from `offset` of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: SourceFile
    offset: int
    nbytes: int


def read_header(file: Path) -> tuple[SourceFile, dict[str, TensorSource]]:
    """The tensors in the header of a safetensors file, checked against the file's size.

    Raises CheckpointFileMissing for what is no regular file, CheckpointTruncated, CheckpointHeaderInvalid,
    NotACheckpoint for a known other kind of file, and OSError.
    """
    with _regular(file) as stream:
        return _parse_stream(file, stream)


def read_source_header(source: WeightSource, name: str) -> tuple[SourceFile, dict[str, TensorSource]]:
    """The same of a source's file. Raises FileNotFoundError, LinkBroken and SourceUnreadable instead of OSError."""
    file = source.path(name)
    try:
        with source.stream(name) as stream:
            return _parse_stream(file, stream)
    except untrusted_input.NotAFile as error:
        raise _no_file(file) from error


def header_digest(file: Path) -> str:
    """The xxh3-128, as hex, of a safetensors file's bytes before its tensors, of which none is read.

    Raises what `read_header` raises where there is no whole header; its content is not checked.
    """
    with _regular(file) as stream:
        header = _read(file, stream)
    return xxhash.xxh3_128(struct.pack("<Q", len(header)) + header).hexdigest()


@contextmanager
def _regular(file: Path) -> Iterator[RegularFile]:
    try:
        stream = untrusted_input.open_regular(file)
    except untrusted_input.NotAFile as error:
        raise _no_file(file) from error
    with stream:
        yield RegularFile(stream)


def _no_file(file: Path) -> CheckpointFileMissing:
    return CheckpointFileMissing(
        f"{file} is a directory, a pipe or a device, where a safetensors file has to be. Download or copy it again."
    )


def _parse_stream(file: Path, stream: Stream) -> tuple[SourceFile, dict[str, TensorSource]]:
    try:
        header = _read(file, stream)
        source = SourceFile(
            file, stream.nbytes, stream.mtime_ns, hashlib.sha256(header).hexdigest(), stream.content_digest
        )
        data_start = 8 + len(header)
        return source, _check_extents(source, data_start, _parse(source, header, data_start))
    except (CheckpointTruncated, CheckpointHeaderInvalid):
        stream.rewind()
        head = stream.read(HEAD_BYTES)
        refuse_identified(file, head)
        if len(head) >= 8 and (text := text_of(head)):
            raise NotACheckpoint(
                f"{file} is text and no safetensors file: it begins {shown(text)}. Download or copy it again."
            ) from None
        raise


def _read(file: Path, stream: Stream) -> bytes:
    prefix = stream.read(8)
    if len(prefix) < 8:
        raise CheckpointTruncated(f"{file} is {len(prefix)} bytes long, too short for a header. Download it again.")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > MAX_HEADER_BYTES:
        raise CheckpointHeaderInvalid(
            file, f"it claims to be {header_bytes:,} bytes long, and at most {MAX_HEADER_BYTES:,} are allowed"
        )
    header = stream.read(header_bytes)
    if len(header) < header_bytes:
        raise CheckpointTruncated(
            f"{file} ends inside its header: {8 + len(header):,} bytes are there, {header_bytes + 8:,} are needed for "
            "the header alone. Download it again."
        )
    return header


def _parse(file: SourceFile, header: bytes, data_start: int) -> dict[str, TensorSource]:
    def refuse(what: str) -> NoReturn:
        raise CheckpointHeaderInvalid(file.path, what)

    entries = _parse_json(header, refuse)
    if not isinstance(entries, dict):
        refuse("it is no JSON object")
    if not _is_metadata(entries.pop("__metadata__", None)):
        refuse("its __metadata__ is no map of strings")
    return {name: _tensor(file, name, entry, data_start, refuse) for name, entry in entries.items()}


def _parse_json(header: bytes, refuse: Refuse) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            refuse("a key occurs twice in it")
        return entries

    def refuse_constant(name: str) -> NoReturn:
        refuse(f"it is no JSON ({name} occurs in it)")

    if untrusted_input.has_too_many_values(header):
        refuse(f"it holds more than {untrusted_input.MAX_VALUES:,} values, far more than a model's tensors need")
    try:
        parsed: object = json.loads(
            header.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=untrusted_input.integer,
            parse_constant=refuse_constant,
        )
    except RecursionError:
        refuse("it is nested too deep")
    except ValueError as error:
        refuse(f"it is no JSON ({error})")
    if untrusted_input.has_half_a_character(header, parsed):
        refuse("a string in it ends within a character")
    return parsed


def _is_metadata(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(v, str) for v in value.values()))


def _tensor(file: SourceFile, name: str, entry: object, data_start: int, refuse: Refuse) -> TensorSource:
    dtype, shape, (start, stop) = _fields(name, entry, refuse)
    if start > stop:
        refuse(f"{shown(name)} ends at byte {stop:,}, before it begins at {start:,}")
    bits = _bits(shape, dtype)
    if bits is None:
        refuse(f"the size of {shown(name)}, {shown(list(shape))} of {dtype}, is beyond 64 bits")
    if bits % 8:
        refuse(f"{shown(name)}, {shown(list(shape))} of {dtype}, does not fill whole bytes")
    if stop - start != bits // 8:
        refuse(f"{shown(name)} occupies {stop - start:,} bytes, and {shown(list(shape))} of {dtype} need {bits // 8:,}")
    return TensorSource(name, dtype, shape, file, data_start + start, stop - start)


def _fields(name: str, entry: object, refuse: Refuse) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    if isinstance(entry, list) and len(entry) == len(FIELDS):
        entry = dict(zip(FIELDS, entry, strict=True))
    if not isinstance(entry, dict) or not entry.keys() >= set(FIELDS):
        refuse(f"the entry of {shown(name)} has not all of {', '.join(FIELDS)}")
    dtype, shape, offsets = _dtype(entry["dtype"]), _naturals(entry["shape"]), _naturals(entry["data_offsets"])
    if dtype is None:
        refuse(f"{shown(name)} has the dtype {shown(entry['dtype'])}, which safetensors does not know")
    if shape is None or offsets is None or len(offsets) != 2:
        refuse(f"the shape or the offsets of {shown(name)} are no lists of natural numbers")
    if len(entry) > len(FIELDS) and not all(_is_readable(entry[key]) for key in entry.keys() - set(FIELDS)):
        refuse(f"what the entry of {shown(name)} holds beside {', '.join(FIELDS)} is nested too deep or too large")
    return dtype, shape, offsets


def _dtype(value: object) -> str | None:
    if isinstance(value, dict) and list(value.values()) == [None]:
        (value,) = value
    return value if isinstance(value, str) and value in DTYPE_BITS else None


def _naturals(value: object) -> tuple[int, ...] | None:
    """`value` as a tuple, if it is a list of unsigned 64-bit integers."""
    if not isinstance(value, list):
        return None
    return tuple(value) if all(type(v) is int and 0 <= v <= MAX_INTEGER for v in value) else None


def _is_readable(value: object) -> bool:
    """Whether the library would skip an unused value, which is inside two objects."""
    if any(isinstance(each, float) and isinf(each) for each, _ in untrusted_input.walk(value)):
        return False
    return not untrusted_input.is_nested_too_deep(value, around=2)


def _bits(shape: tuple[int, ...], dtype: str) -> int | None:
    """The size of a tensor in bits; None if the product exceeds 64 bits at any dimension, even if a later one is
    zero."""
    bits = 1
    for size in (*shape, DTYPE_BITS[dtype]):
        bits *= size
        if bits > MAX_INTEGER:
            return None
    return bits


def _check_extents(file: SourceFile, data_start: int, tensors: dict[str, TensorSource]) -> dict[str, TensorSource]:
    """Raises unless the tensors follow each other without a gap or an overlap and end where the file ends."""
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != end:
            fault = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise CheckpointHeaderInvalid(file.path, f"{shown(tensor.name)} {fault}")
        end += tensor.nbytes
    if file.nbytes < end:
        raise CheckpointTruncated(
            f"{file.path} is truncated: its header describes {end:,} bytes and {file.nbytes:,} are there. "
            "Download or copy the file again."
        )
    if file.nbytes > end:
        raise CheckpointHeaderInvalid(file.path, f"the file is {file.nbytes - end:,} bytes longer than it describes")
    return tensors
