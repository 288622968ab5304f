"""What a Hugging Face checkpoint holds, learnt from its config.json and the headers of its safetensors files alone.

No weight is read here. A header is believed only as far as the safetensors library would believe it: whatever that
library refuses is refused, with a sentence that names the file.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from neuronmodel_worker.failures import (
    CheckpointFileMissing,
    CheckpointHeaderInvalid,
    CheckpointTruncated,
    ConfigInvalid,
    ConfigMissing,
    SourceNotFound,
    SourceUnreadable,
)

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

# The library's own limit: a longer header is an attack or a mistake.
MAX_HEADER_BYTES = 100_000_000
MAX_JSON_BYTES = 100_000_000

# Ends the reading of a header with a sentence.
Refuse = Callable[[str], NoReturn]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was when its header was read; `path` may be a symlink, the figures are its target's."""

    path: Path
    nbytes: int
    mtime_ns: int
    header_digest: str


@dataclass(frozen=True, slots=True)
class TensorSource:
    """Where one tensor's bytes lie: row-major, little-endian, `nbytes` from `offset` of `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: SourceFile
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Checkpoint:
    path: Path
    config: Mapping[str, object]
    tensors: Mapping[str, TensorSource]
    files: tuple[SourceFile, ...]

    @cached_property
    def fingerprint(self) -> str:
        """A digest over the configuration and every file's name, size, time and header: changes when the source was
        touched, costs no read of weights."""
        facts = [[f.path.name, f.nbytes, f.mtime_ns, f.header_digest] for f in self.files]
        canonical = json.dumps([self.config, facts], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the configuration and every header of the checkpoint in directory `path`.

    Raises SourceNotFound, ConfigMissing, ConfigInvalid, CheckpointFileMissing, CheckpointTruncated,
    CheckpointHeaderInvalid or SourceUnreadable.
    """
    try:
        if not _is_there(path) or not path.is_dir():
            raise SourceNotFound(path)
        config = _read_config(path)
        named = _files_of(path)
        files = {file: read_header(path / file) for file in dict.fromkeys(named.values())}
    except OSError as error:
        raise SourceUnreadable(Path(error.filename or path), error) from error
    return Checkpoint(path, config, MappingProxyType(_merge(path, named, files)), tuple(f for f, _ in files.values()))


def _is_there(path: Path) -> bool:
    """Unlike `Path.exists`, which takes a file that may not be looked at for one that is not there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read_config(directory: Path) -> Mapping[str, object]:
    file = directory / "config.json"
    if not _is_there(file):
        raise ConfigMissing(directory)
    return _read_json_object(file)


def _read_json_object(file: Path) -> dict[str, object]:
    """A JSON object from a small file. Raises ConfigInvalid."""
    if (nbytes := file.stat().st_size) > MAX_JSON_BYTES:
        raise ConfigInvalid(
            f"{file} is {nbytes:,} bytes long, far more than such a file holds. Put the right one there."
        )
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{file} is not valid JSON ({error}). Download or copy it again.") from error
    if not isinstance(content, dict):
        raise ConfigInvalid(f"{file} holds no JSON object. Download or copy it again.")
    return content


ALL_TENSORS = "*"


def _files_of(directory: Path) -> dict[str, str]:
    """Tensor name → file name, as the index says; of a single file, all tensors."""
    if _is_there(directory / SINGLE_FILE):
        return {ALL_TENSORS: SINGLE_FILE}
    index = directory / INDEX_FILE
    if not _is_there(index):
        raise CheckpointFileMissing(
            f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}. Download the checkpoint in safetensors format."
        )
    weight_map = _read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigInvalid(f"{index} names no tensors in its weight_map. Download or copy it again.")
    for file in weight_map.values():
        _check_index_entry(directory, index, file)
    return weight_map


def _check_index_entry(directory: Path, index: Path, file: object) -> None:
    if not isinstance(file, str) or not file or Path(file).name != file:
        raise ConfigInvalid(f"{index} names {file!r}, which is no file beside it. Download or copy the index again.")
    if not _is_there(directory / file):
        raise CheckpointFileMissing(f"{index} names {file}, and {directory} holds no such file. Download it again.")


def _merge(
    directory: Path, named: Mapping[str, str], files: Mapping[str, tuple[SourceFile, dict[str, TensorSource]]]
) -> dict[str, TensorSource]:
    if ALL_TENSORS in named and len(files) == 1:
        return files[SINGLE_FILE][1]
    tensors = {}
    for name, file in named.items():
        source = files[file][1].get(name)
        if source is None:
            raise CheckpointFileMissing(
                f"{INDEX_FILE} says that {file} holds the tensor {name}, and it does not. "
                f"Download the files in {directory} again, all of the same revision."
            )
        tensors[name] = source
    return tensors


def read_header(file: Path) -> tuple[SourceFile, dict[str, TensorSource]]:
    """The tensors that a safetensors file says it holds, checked against its size.

    Raises CheckpointTruncated, CheckpointHeaderInvalid, and OSError as it comes.
    """
    with file.open("rb") as stream:
        stat = os.fstat(stream.fileno())
        prefix = stream.read(8)
        if len(prefix) < 8:
            raise CheckpointTruncated(
                f"{file} is {stat.st_size} bytes long, too short for a header. Download it again."
            )
        (header_bytes,) = struct.unpack("<Q", prefix)
        if header_bytes > MAX_HEADER_BYTES:
            raise CheckpointHeaderInvalid(
                file, f"it claims to be {header_bytes:,} bytes long, and at most {MAX_HEADER_BYTES:,} are allowed"
            )
        header = stream.read(header_bytes)
    if len(header) < header_bytes:
        raise CheckpointTruncated(
            f"{file} ends inside its header: {stat.st_size:,} bytes are there, {header_bytes + 8:,} are needed for the "
            "header alone. Download it again."
        )
    source = SourceFile(file, stat.st_size, stat.st_mtime_ns, hashlib.sha256(header).hexdigest())
    return source, _check_extents(source, 8 + header_bytes, _parse_header(source, header, 8 + header_bytes))


def _parse_header(file: SourceFile, header: bytes, data_start: int) -> dict[str, TensorSource]:
    def refuse(what: str) -> NoReturn:
        raise CheckpointHeaderInvalid(file.path, what)

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            refuse("a key occurs twice in it")
        return entries

    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        refuse(f"it is no JSON ({error})")
    if not isinstance(entries, dict):
        refuse("it is no JSON object")
    if not _is_metadata(entries.pop("__metadata__", None)):
        refuse("its __metadata__ is no map of strings")
    return {name: _tensor(file, name, entry, data_start, refuse) for name, entry in entries.items()}


def _is_metadata(value: object) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(v, str) for v in value.values()))


def _naturals(value: object, length: int | None = None) -> tuple[int, ...] | None:
    """`value` as a tuple if it is a list of unsigned 64-bit integers."""
    if not isinstance(value, list) or (length is not None and len(value) != length):
        return None
    return tuple(value) if all(type(v) is int and 0 <= v < 2**64 for v in value) else None


def _tensor(file: SourceFile, name: str, entry: object, data_start: int, refuse: Refuse) -> TensorSource:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(f"the entry of {name} has not just dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], _naturals(entry["shape"]), _naturals(entry["data_offsets"], 2)
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        refuse(f"{name} has the dtype {dtype!r}, which safetensors does not know")
    if shape is None or offsets is None:
        refuse(f"the shape or the offsets of {name} are no lists of natural numbers")
    start, stop = offsets
    bits = prod(shape) * DTYPE_BITS[dtype]
    if bits >= 2**64 or bits % 8 or stop - start != bits // 8:
        refuse(f"{name} occupies {stop - start:,} bytes, and {list(shape)} of {dtype} need {bits / 8:,.0f}")
    return TensorSource(name, dtype, shape, file, data_start + start, stop - start)


def _check_extents(file: SourceFile, data_start: int, tensors: dict[str, TensorSource]) -> dict[str, TensorSource]:
    """The tensors must follow each other without a hole or an overlap and end where the file ends."""
    end = data_start
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.offset + t.nbytes)):
        if tensor.offset != end:
            fault = "overlaps the tensor before it" if tensor.offset < end else "leaves a hole before it"
            raise CheckpointHeaderInvalid(file.path, f"{tensor.name} {fault}")
        end += tensor.nbytes
    if file.nbytes < end:
        raise CheckpointTruncated(
            f"{file.path} is truncated: its header describes {end:,} bytes and {file.nbytes:,} are there. "
            "Download or copy the file again."
        )
    if file.nbytes > end:
        raise CheckpointHeaderInvalid(file.path, f"the file is {file.nbytes - end:,} bytes longer than it describes")
    return tensors
