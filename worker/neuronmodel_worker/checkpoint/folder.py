"""The folder of a checkpoint: its config.json, its index, and which file holds which tensor."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from neuronmodel_worker.checkpoint import untrusted
from neuronmodel_worker.checkpoint.header import SourceFile, TensorSource, read_header
from neuronmodel_worker.checkpoint.untrusted import shown
from neuronmodel_worker.failures import (
    CheckpointFileMissing,
    ConfigInvalid,
    ConfigMissing,
    SourceNotFound,
    SourceUnreadable,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# The index of 200,000 tensors is 20 MB long.
MAX_JSON_BYTES = 100_000_000
MAX_NAME_BYTES = 255

Header = tuple[SourceFile, dict[str, TensorSource]]


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
    with _readable(path):
        if not _is_there(path) or not path.is_dir():
            raise SourceNotFound(path)
    config = _read_config(path)
    with _readable(path / SINGLE_FILE):
        single = _is_there(path / SINGLE_FILE)
    files, tensors = _read_single(path) if single else _read_indexed(path)
    return Checkpoint(path, config, MappingProxyType(tensors), files)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what the file system says of `path` into SourceUnreadable, but for a file that is not there."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SourceUnreadable(path, error) from error


def _is_there(path: Path) -> bool:
    """Unlike `Path.exists`, which takes a file that may not be looked at for one that is not there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read_config(directory: Path) -> Mapping[str, object]:
    try:
        return _read_json_object(directory / "config.json")
    except FileNotFoundError as error:
        raise ConfigMissing(directory) from error


def _read_json_object(file: Path) -> dict[str, object]:
    """A JSON object from a small file. Raises ConfigInvalid, SourceUnreadable, FileNotFoundError."""
    content = _parse_json(file, _read_small(file))
    if not isinstance(content, dict):
        raise ConfigInvalid(f"{file} holds no JSON object. Download or copy it again.")
    return content


def _read_small(file: Path) -> bytes:
    try:
        with _readable(file), untrusted.open_regular(file) as stream:
            text = stream.read(MAX_JSON_BYTES + 1)
    except untrusted.NotAFile as error:
        raise ConfigInvalid(
            f"{file} is a directory, a pipe or a device, where a file has to be. Put the checkpoint's own there."
        ) from error
    if len(text) > MAX_JSON_BYTES or untrusted.has_too_many_values(text):
        raise ConfigInvalid(
            f"{file} is far larger than such a file is: at most {MAX_JSON_BYTES:,} bytes and {untrusted.MAX_VALUES:,} "
            "values are read. Put the checkpoint's own there."
        )
    return text


def _parse_json(file: Path, text: bytes) -> object:
    def refuse(what: str) -> NoReturn:
        raise ConfigInvalid(f"{file} is not valid JSON ({what}). Download or copy it again.")

    try:
        content: object = json.loads(text.decode("utf-8-sig"), parse_int=untrusted.integer)
    except RecursionError:
        refuse("nested too deep")
    except ValueError as error:
        refuse(str(error))
    if untrusted.is_nested_too_deep(content):
        refuse("nested too deep")
    if untrusted.has_half_a_character(text, content):
        refuse("a string in it ends within a character")
    return content


def _read_single(directory: Path) -> tuple[tuple[SourceFile, ...], dict[str, TensorSource]]:
    source, tensors = _read_header(directory, SINGLE_FILE, f"{SINGLE_FILE} is gone from {directory}")
    return (source,), tensors


def _read_indexed(directory: Path) -> tuple[tuple[SourceFile, ...], dict[str, TensorSource]]:
    file_of = _read_index(directory)
    headers = {
        file: _read_header(directory, file, f"{INDEX_FILE} names {file}, and {directory} holds no such file")
        for file in dict.fromkeys(file_of.values())
    }
    return tuple(source for source, _ in headers.values()), _join(directory, file_of, headers)


def _read_header(directory: Path, file: str, without: str) -> Header:
    try:
        with _readable(directory / file):
            return read_header(directory / file)
    except FileNotFoundError as error:
        raise CheckpointFileMissing(f"{without}. Download it again.") from error


def _read_index(directory: Path) -> dict[str, str]:
    """Tensor name → file name."""
    index = directory / INDEX_FILE
    try:
        weight_map = _read_json_object(index).get("weight_map")
    except FileNotFoundError as error:
        raise CheckpointFileMissing(
            f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}. Download the checkpoint in safetensors format."
        ) from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigInvalid(f"{index} names no tensors in its weight_map. Download or copy it again.")
    for file in weight_map.values():
        if not _is_file_name(file):
            raise ConfigInvalid(
                f"{index} names {shown(file)}, which is no file beside it. Download or copy the index again."
            )
    return weight_map


def _is_file_name(value: object) -> bool:
    """Of a file in the same folder, which may be a symlink to anywhere."""
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value:
        return False
    return value.isprintable() and len(value.encode()) <= MAX_NAME_BYTES


def _join(directory: Path, file_of: Mapping[str, str], headers: Mapping[str, Header]) -> dict[str, TensorSource]:
    """The tensors that the index names; what else a file holds is nobody's."""
    tensors = {}
    for name, file in file_of.items():
        source = headers[file][1].get(name)
        if source is None:
            raise CheckpointFileMissing(
                f"{INDEX_FILE} says that {file} holds the tensor {shown(name)}, and it does not. "
                f"Download the files in {directory} again, all of the same revision."
            )
        tensors[name] = source
    return tensors
