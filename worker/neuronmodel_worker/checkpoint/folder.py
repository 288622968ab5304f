"""The folder of a checkpoint: its config.json, its index, and which file holds which tensor."""

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from neuronmodel_worker.checkpoint import missing_files
from neuronmodel_worker.checkpoint.files import (
    file_exists,
    head_of,
    parse_json,
    read_json_object,
    read_small,
    readable,
    refuse_broken_link,
)
from neuronmodel_worker.checkpoint.header import SourceFile, TensorSource, read_header
from neuronmodel_worker.checkpoint.missing_files import Diagnosis
from neuronmodel_worker.checkpoint.quantization import QUANTIZER_FILES, quantization_of
from neuronmodel_worker.checkpoint.untrusted_input import listed, shown
from neuronmodel_worker.failures import (
    BadInput,
    CheckpointFileMissing,
    CheckpointQuantized,
    ConfigInvalid,
    ConfigMissing,
    LinkBroken,
    NotACheckpoint,
    SourceNotFound,
    WorkerFailure,
)

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_NAME_BYTES = 255
MAX_LISTED: Final = 10_000
"""How many names in a folder are looked at where a file is missing."""
UNFINISHED_BELOW: Final = Path(".cache", "huggingface", "download")
"""Where `hf download --local-dir` keeps unfinished files."""

Header = tuple[SourceFile, dict[str, TensorSource]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. `quantizer_files` holds the contents of the files that quantizers write into the folder, by their
    names, with None for a file that cannot be parsed. `unnamed` are files of its series that the index leaves out,
    `unusable` sentences on those of them that are missing or not whole. `warnings` are about its files."""

    path: Path
    config: Mapping[str, object]
    tensors: Mapping[str, TensorSource]
    files: tuple[SourceFile, ...]
    quantizer_files: Mapping[str, object] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """A digest over the configuration and every file's name, size, modification time and header. It changes when
        the source was touched, and takes no read of weights."""
        facts = [[f.path.name, f.nbytes, f.mtime_ns, f.header_digest] for f in self.files]
        canonical = json.dumps([self.config, facts], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the configuration and every header of the checkpoint in directory `path`.

    Raises SourceNotFound, ConfigMissing, ConfigInvalid, CheckpointFileMissing, CheckpointTruncated,
    CheckpointHeaderInvalid, NotACheckpoint or SourceUnreadable.
    """
    _require_directory(path)
    config = _read_config(path)
    with readable(path / SINGLE_FILE):
        single = file_exists(path / SINGLE_FILE)
    found = _read_single(path) if single else _read_indexed(path, config)
    _refuse_unfinished(path, found.files)
    _refuse_adapter(path, found.tensors)
    return Checkpoint(
        path,
        config,
        MappingProxyType(found.tensors),
        found.files,
        _read_quantizer_files(path),
        found.unnamed,
        (*found.warnings, *_adapter_warning(path)),
        found.unusable,
    )


@dataclass(frozen=True)
class _Files:
    files: tuple[SourceFile, ...]
    tensors: dict[str, TensorSource]
    unnamed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()


def _require_directory(path: Path) -> None:
    try:
        with readable(path):
            is_directory = file_exists(path) and path.is_dir()
        if not is_directory:
            refuse_broken_link(path)
    except LinkBroken as broken:
        raise SourceNotFound(path, broken.target) from broken
    if not is_directory:
        raise SourceNotFound(path)


def _read_config(directory: Path) -> Mapping[str, object]:
    try:
        config = read_json_object(directory / CONFIG_FILE)
    except FileNotFoundError as error:
        found = missing_files.instead_of_config(_names(directory), lambda name: head_of(directory / name))
        if found:
            raise _refusal(directory, f"{directory} holds no {CONFIG_FILE}", found) from error
        raise ConfigMissing(directory) from error
    if "model_type" not in config and (found := missing_files.config_of_other_kind(config.keys())):
        raise NotACheckpoint(f"{directory / CONFIG_FILE} is {found.what}. {found.remedy}.")
    return config


def _read_single(directory: Path) -> _Files:
    source, tensors = _read_header(directory, SINGLE_FILE, f"{SINGLE_FILE} is gone from {directory}")
    return _Files((source,), tensors)


def _read_indexed(directory: Path, config: Mapping[str, object]) -> _Files:
    file_of = _read_index(directory, config)
    headers = {
        file: _read_header(directory, file, f"{INDEX_FILE} names {file}, and {directory} holds no such file")
        for file in dict.fromkeys(file_of.values())
    }
    tensors = _join(directory, headers)
    present, unusable = _names(directory), list[str]()
    left_out = dict(
        _left_out_files(directory, missing_files.rest_of_series(headers.keys(), present), tensors.keys(), unusable)
    )
    unusable += (
        f"{INDEX_FILE} leaves out {shown(file)}, a file of the same series, and {directory} holds none of that name. "
        "Download it and the index again, of the same revision."
        for file in missing_files.absent_of_series(headers.keys(), present)
    )
    for _, held in left_out.values():
        tensors |= held
    _refuse_absent(directory, file_of, tensors)
    return _Files(
        tuple(source for source, _ in (*headers.values(), *left_out.values())),
        tensors,
        tuple(left_out),
        tuple(_index_warnings(directory, file_of, tensors)),
        tuple(unusable),
    )


def _left_out_files(
    directory: Path, rest: Iterable[str], tensors: Collection[str], unusable: list[str]
) -> Iterator[tuple[str, Header]]:
    """Files that belong to the series of those that the index names, and have tensors that no other file has: a
    truncated index leaves them out. A file that is not whole is not used, and `unusable` says why."""
    for file in rest:
        try:
            with readable(directory / file):
                header = read_header(directory / file)
        except BadInput as error:
            unusable.append(f"{INDEX_FILE} leaves out {shown(file)}, a file of the same series: {error}")
            continue
        except FileNotFoundError:
            continue
        if not header[1].keys() & tensors:
            yield file, header


def _read_header(directory: Path, file: str, without: str) -> Header:
    try:
        with readable(directory / file):
            return read_header(directory / file)
    except FileNotFoundError as error:
        unfinished = missing_files.unfinished(_names(directory), of=file)
        more = f" It has {unfinished.what}." if unfinished else ""
        raise CheckpointFileMissing(f"{without}.{more} Download it again.") from error


def _read_index(directory: Path, config: Mapping[str, object]) -> dict[str, str]:
    """The file of each tensor, by the tensor's name."""
    index = directory / INDEX_FILE
    try:
        weight_map = read_json_object(index).get("weight_map")
    except FileNotFoundError as error:
        refuse_broken_link(directory / SINGLE_FILE)
        without = f"{directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}"
        found = missing_files.instead_of_weights(_names(directory), lambda name: head_of(directory / name))
        quantized = quantization_of(config, _read_quantizer_files(directory))
        if quantized and not (found and found.is_other):
            raise CheckpointQuantized(quantized.sentence(directory)) from error
        if found:
            raise _refusal(directory, without, found) from error
        raise CheckpointFileMissing(f"{without}. Download the checkpoint in safetensors format.") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigInvalid(f"{index} names no tensors in its weight_map. Download or copy it again.")
    for file in weight_map.values():
        if not _is_file_name(file):
            raise ConfigInvalid(
                f"{index} names {shown(file)}, which is no file beside it. Download or copy the index again."
            )
    return weight_map


def _is_file_name(value: object) -> bool:
    """Whether a value is the name of a file in the same folder, which may be a symlink to anywhere."""
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value:
        return False
    return value.isprintable() and len(value.encode()) <= MAX_NAME_BYTES


def _join(directory: Path, headers: Mapping[str, Header]) -> dict[str, TensorSource]:
    """Every tensor of the files that the index names, even if it does not name the tensor. NxD Inference does the same
    (`_load_from_files` in modules/checkpoint.py), and also refuses a tensor that is in two of them."""
    tensors: dict[str, TensorSource] = {}
    for source, held in headers.values():
        for name in held.keys() & tensors.keys():
            raise ConfigInvalid(
                f"The tensor {shown(name)} is in {tensors[name].file.path.name} and in {source.path.name} of "
                f"{directory}, and a model has one of that name. Download both and {INDEX_FILE} again, all of the same "
                "revision, or remove the file that does not belong to it from the index."
            )
        tensors |= held
    return tensors


def _refuse_absent(directory: Path, file_of: Mapping[str, str], tensors: Mapping[str, TensorSource]) -> None:
    for name, file in file_of.items():
        if name not in tensors:
            raise CheckpointFileMissing(
                f"{INDEX_FILE} says that {file} holds the tensor {shown(name)}, and it does not. "
                f"Download the files in {directory} again, all of the same revision."
            )


def _index_warnings(directory: Path, file_of: Mapping[str, str], tensors: Mapping[str, TensorSource]) -> list[str]:
    """Warnings of differences between the index and the files."""
    warnings = []
    if unnamed := sorted(tensors.keys() - file_of.keys()):
        warnings.append(
            f"{directory / INDEX_FILE} leaves out {_counted(unnamed)} that its files hold ({listed(unnamed)}). They "
            "are used. Download the index again if there is a newer one."
        )
    if elsewhere := sorted(name for name, file in file_of.items() if tensors[name].file.path.name != file):
        warnings.append(
            f"{directory / INDEX_FILE} names another file for {_counted(elsewhere)} ({listed(elsewhere)}) than the "
            "one that holds them. They are used from where they are."
        )
    return warnings


def _counted(names: list[str]) -> str:
    return f"{len(names):,} tensor{'' if len(names) == 1 else 's'}"


def _refuse_unfinished(directory: Path, files: Iterable[SourceFile]) -> None:
    for file in files:
        name = missing_files.unfinished_marker(file.path.name)
        with readable(directory / name):
            if file_exists(directory / name):
                raise CheckpointFileMissing(
                    f"{file.path} is not downloaded whole: {name} beside it says so, whatever its length. Let the "
                    "download finish, or delete both and download it again."
                )


def _refuse_adapter(directory: Path, tensors: Mapping[str, TensorSource]) -> None:
    if name := missing_files.adapter_tensor(tensors):
        raise NotACheckpoint(
            f"The checkpoint in {directory} holds the tensor {shown(name)}: it is an adapter, or a model with one that "
            f"was not merged.{_base_model(directory)} {missing_files.MERGE}."
        )


def _adapter_warning(directory: Path) -> tuple[str, ...]:
    file = directory / missing_files.ADAPTER_CONFIG
    try:
        with readable(file):
            exists = file_exists(file)
        if not exists:
            refuse_broken_link(file)
            return ()
    except LinkBroken as broken:
        return (
            f"{file} is a symbolic link to {broken.target} that leads nowhere. The model is used without the adapter; "
            "merge it into the model if it belongs to it.",
        )
    return (
        f"{directory} holds an adapter ({missing_files.ADAPTER_CONFIG}) beside the model. The model is used without "
        "it; merge it into the model if it belongs to it.",
    )


def _read_quantizer_files(directory: Path) -> Mapping[str, object]:
    found: dict[str, object] = {}
    for name in QUANTIZER_FILES:
        with readable(directory / name):
            if (directory / name).is_file():
                found[name] = _parsed(directory / name)
            else:
                refuse_broken_link(directory / name)
    return MappingProxyType(found)


def _parsed(file: Path) -> object:
    """The JSON in a file; None where it cannot be parsed."""
    try:
        return parse_json(file, read_small(file))
    except BadInput:
        return None


def _names(directory: Path) -> frozenset[str]:
    """The names of the files in a folder and of unfinished downloads into it, at most MAX_LISTED of each."""
    found: set[str] = set()
    for each in (directory, directory / UNFINISHED_BELOW):
        try:
            with os.scandir(each) as entries:
                found.update(
                    entry.name
                    for entry in islice(entries, MAX_LISTED)
                    if each == directory or entry.name.endswith(".incomplete")
                )
        except OSError:
            continue
    return frozenset(found)


def _refusal(directory: Path, without: str, found: Diagnosis) -> NotACheckpoint | CheckpointFileMissing:
    kind = NotACheckpoint if found.is_other else CheckpointFileMissing
    of = _base_model(directory) if found.remedy == missing_files.MERGE else ""
    return kind(f"{without}, but {found.what}.{of} {found.remedy}.")


def _base_model(directory: Path) -> str:
    """A sentence on the base model that an adapter names, with a space before it; empty where there is none."""
    try:
        base = read_json_object(directory / missing_files.ADAPTER_CONFIG).get("base_model_name_or_path")
    except (WorkerFailure, OSError):
        return ""
    return f" Its base model is {shown(base)}." if isinstance(base, str) and base else ""
