"""A checkpoint: its config.json, its index, and which file holds which tensor."""

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from neuronmodel_worker.checkpoint import missing_files
from neuronmodel_worker.checkpoint.files import head_of, parse_json, read_json_object, read_small
from neuronmodel_worker.checkpoint.header import TensorSource, read_source_header
from neuronmodel_worker.checkpoint.missing_files import Diagnosis
from neuronmodel_worker.checkpoint.quantization import QUANTIZER_FILES, quantization_of
from neuronmodel_worker.failures import (
    BadInput,
    CheckpointFileMissing,
    CheckpointQuantized,
    ConfigInvalid,
    ConfigMissing,
    LinkBroken,
    NotACheckpoint,
    WorkerFailure,
)
from neuronmodel_worker.io.untrusted_input import listed, shown
from neuronmodel_worker.sources import Folder, SourceFile, WeightSource

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_NAME_BYTES = 255
MAX_LISTED: Final = 10_000
"""How many names in a folder are looked at where a file is missing."""

Header = tuple[SourceFile, dict[str, TensorSource]]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint. `quantizer_files` holds the contents of the files that quantizers write into the folder, by their
    names, with None for a file that cannot be parsed. `unnamed` are files of its series that the index leaves out,
    `unusable` sentences on those of them that are missing or not whole. `warnings` are about its files."""

    source: WeightSource
    config: Mapping[str, object]
    tensors: Mapping[str, TensorSource]
    files: tuple[SourceFile, ...]
    quantizer_files: Mapping[str, object] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where what reads only directories finds the files, and how messages name the checkpoint."""
        return self.source.directory

    @cached_property
    def fingerprint(self) -> str:
        """A digest over the configuration and every file's name, size, header and modification time, or the digest of
        its content where the source has one. It changes when a folder was touched, and takes no read of weights."""
        facts = [[f.path.name, f.nbytes, *f.version, f.header_digest] for f in self.files]
        canonical = json.dumps([self.config, facts], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def open_checkpoint(place: WeightSource | Path) -> Checkpoint:
    """Read the configuration and every header of the checkpoint in a source, or in a directory.

    Raises SourceNotFound, ConfigMissing, ConfigInvalid, CheckpointFileMissing, CheckpointTruncated,
    CheckpointHeaderInvalid, NotACheckpoint or SourceUnreadable.
    """
    source = Folder(place) if isinstance(place, Path) else place
    source.require()
    config = _read_config(source)
    found = _read_single(source) if source.exists(SINGLE_FILE) else _read_indexed(source, config)
    _refuse_unfinished(source, found.files)
    _refuse_adapter(source, found.tensors)
    return Checkpoint(
        source,
        config,
        MappingProxyType(found.tensors),
        found.files,
        _read_quantizer_files(source),
        found.unnamed,
        (*source.warnings, *found.warnings, *_adapter_warning(source)),
        found.unusable,
    )


@dataclass(frozen=True)
class _Files:
    files: tuple[SourceFile, ...]
    tensors: dict[str, TensorSource]
    unnamed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()


def _read_config(source: WeightSource) -> Mapping[str, object]:
    try:
        config = read_json_object(source, CONFIG_FILE)
    except FileNotFoundError as error:
        found = missing_files.instead_of_config(source.names(MAX_LISTED), lambda name: head_of(source, name))
        if found:
            raise _refusal(source, f"{source.directory} holds no {CONFIG_FILE}", found) from error
        raise ConfigMissing(source.directory) from error
    if "model_type" not in config and (found := missing_files.config_of_other_kind(config.keys())):
        raise NotACheckpoint(f"{source.path(CONFIG_FILE)} is {found.what}. {found.remedy}.")
    return config


def _read_single(source: WeightSource) -> _Files:
    file, tensors = _read_header(source, SINGLE_FILE, f"{SINGLE_FILE} is gone from {source.directory}")
    return _Files((file,), tensors)


def _read_indexed(source: WeightSource, config: Mapping[str, object]) -> _Files:
    file_of = _read_index(source, config)
    source.read_ahead(dict.fromkeys(file_of.values()))
    headers = {
        file: _read_header(source, file, f"{INDEX_FILE} names {file}, and {source.directory} holds no such file")
        for file in dict.fromkeys(file_of.values())
    }
    tensors = _join(source, headers)
    present, unusable = source.names(MAX_LISTED), list[str]()
    left_out = dict(
        _left_out_files(source, missing_files.rest_of_series(headers.keys(), present), tensors.keys(), unusable)
    )
    unusable += (
        f"{INDEX_FILE} leaves out {shown(file)}, a file of the same series, and {source.directory} holds none of that "
        "name. Download it and the index again, of the same revision."
        for file in missing_files.absent_of_series(headers.keys(), present)
    )
    for _, held in left_out.values():
        tensors |= held
    _refuse_absent(source, file_of, tensors)
    return _Files(
        tuple(file for file, _ in (*headers.values(), *left_out.values())),
        tensors,
        tuple(left_out),
        tuple(_index_warnings(source, file_of, tensors)),
        tuple(unusable),
    )


def _left_out_files(
    source: WeightSource, rest: Iterable[str], tensors: Collection[str], unusable: list[str]
) -> Iterator[tuple[str, Header]]:
    """Files that belong to the series of those that the index names, and have tensors that no other file has: a
    truncated index leaves them out. A file that is not whole is not used, and `unusable` says why."""
    for file in rest:
        try:
            header = read_source_header(source, file)
        except BadInput as error:
            unusable.append(f"{INDEX_FILE} leaves out {shown(file)}, a file of the same series: {error}")
            continue
        except FileNotFoundError:
            continue
        if not header[1].keys() & tensors:
            yield file, header


def _read_header(source: WeightSource, file: str, without: str) -> Header:
    try:
        return read_source_header(source, file)
    except FileNotFoundError as error:
        unfinished = missing_files.unfinished(source.names(MAX_LISTED), of=file)
        more = f" It has {unfinished.what}." if unfinished else ""
        raise CheckpointFileMissing(f"{without}.{more} Download it again.") from error


def _read_index(source: WeightSource, config: Mapping[str, object]) -> dict[str, str]:
    """The file of each tensor, by the tensor's name."""
    index = source.path(INDEX_FILE)
    try:
        weight_map = read_json_object(source, INDEX_FILE).get("weight_map")
    except FileNotFoundError as error:
        source.refuse_broken_link(SINGLE_FILE)
        without = f"{source.directory} holds neither {SINGLE_FILE} nor {INDEX_FILE}"
        found = missing_files.instead_of_weights(source.names(MAX_LISTED), lambda name: head_of(source, name))
        quantized = quantization_of(config, _read_quantizer_files(source))
        if quantized and not (found and found.is_other):
            raise CheckpointQuantized(quantized.sentence(source.directory)) from error
        if found:
            raise _refusal(source, without, found) from error
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


def _join(source: WeightSource, headers: Mapping[str, Header]) -> dict[str, TensorSource]:
    """Every tensor of the files that the index names, even if it does not name the tensor. NxD Inference does the same
    (`_load_from_files` in modules/checkpoint.py), and also refuses a tensor that is in two of them."""
    tensors: dict[str, TensorSource] = {}
    for file, held in headers.values():
        for name in held.keys() & tensors.keys():
            raise ConfigInvalid(
                f"The tensor {shown(name)} is in {tensors[name].file.path.name} and in {file.path.name} of "
                f"{source.directory}, and a model has one of that name. Download both and {INDEX_FILE} again, all of "
                "the same revision, or remove the file that does not belong to it from the index."
            )
        tensors |= held
    return tensors


def _refuse_absent(source: WeightSource, file_of: Mapping[str, str], tensors: Mapping[str, TensorSource]) -> None:
    for name, file in file_of.items():
        if name not in tensors:
            raise CheckpointFileMissing(
                f"{INDEX_FILE} says that {file} holds the tensor {shown(name)}, and it does not. "
                f"Download the files in {source.directory} again, all of the same revision."
            )


def _index_warnings(source: WeightSource, file_of: Mapping[str, str], tensors: Mapping[str, TensorSource]) -> list[str]:
    """Warnings of differences between the index and the files."""
    warnings = []
    if unnamed := sorted(tensors.keys() - file_of.keys()):
        warnings.append(
            f"{source.path(INDEX_FILE)} leaves out {_counted(unnamed)} that its files hold ({listed(unnamed)}). They "
            "are used. Download the index again if there is a newer one."
        )
    if elsewhere := sorted(name for name, file in file_of.items() if tensors[name].file.path.name != file):
        warnings.append(
            f"{source.path(INDEX_FILE)} names another file for {_counted(elsewhere)} ({listed(elsewhere)}) than the "
            "one that holds them. They are used from where they are."
        )
    return warnings


def _counted(names: list[str]) -> str:
    return f"{len(names):,} tensor{'' if len(names) == 1 else 's'}"


def _refuse_unfinished(source: WeightSource, files: Iterable[SourceFile]) -> None:
    for file in files:
        name = missing_files.unfinished_marker(file.path.name)
        if source.exists(name):
            raise CheckpointFileMissing(
                f"{file.path} is not downloaded whole: {name} beside it says so, whatever its length. Let the "
                "download finish, or delete both and download it again."
            )


def _refuse_adapter(source: WeightSource, tensors: Mapping[str, TensorSource]) -> None:
    if name := missing_files.adapter_tensor(tensors):
        raise NotACheckpoint(
            f"The checkpoint in {source.directory} holds the tensor {shown(name)}: it is an adapter, or a model with "
            f"one that was not merged.{_base_model(source)} {missing_files.MERGE}."
        )


def _adapter_warning(source: WeightSource) -> tuple[str, ...]:
    file = source.path(missing_files.ADAPTER_CONFIG)
    try:
        if not source.exists(missing_files.ADAPTER_CONFIG):
            source.refuse_broken_link(missing_files.ADAPTER_CONFIG)
            return ()
    except LinkBroken as broken:
        return (
            f"{file} is a symbolic link to {broken.target} that leads nowhere. The model is used without the adapter; "
            "merge it into the model if it belongs to it.",
        )
    return (
        f"{source.directory} holds an adapter ({missing_files.ADAPTER_CONFIG}) beside the model. The model is used "
        "without it; merge it into the model if it belongs to it.",
    )


def _read_quantizer_files(source: WeightSource) -> Mapping[str, object]:
    found: dict[str, object] = {}
    for name in QUANTIZER_FILES:
        if source.is_file(name):
            found[name] = _parsed(source, name)
        else:
            source.refuse_broken_link(name)
    return MappingProxyType(found)


def _parsed(source: WeightSource, name: str) -> object:
    """The JSON in a file; None where it cannot be parsed."""
    try:
        return parse_json(source.path(name), read_small(source, name))
    except BadInput:
        return None


def _refusal(source: WeightSource, without: str, found: Diagnosis) -> NotACheckpoint | CheckpointFileMissing:
    kind = NotACheckpoint if found.is_other else CheckpointFileMissing
    of = _base_model(source) if found.remedy == missing_files.MERGE else ""
    return kind(f"{without}, but {found.what}.{of} {found.remedy}.")


def _base_model(source: WeightSource) -> str:
    """A sentence on the base model that an adapter names, with a space before it; empty where there is none."""
    try:
        base = read_json_object(source, missing_files.ADAPTER_CONFIG).get("base_model_name_or_path")
    except (WorkerFailure, OSError):
        return ""
    return f" Its base model is {shown(base)}." if isinstance(base, str) and base else ""
