"""The file that makes a set exist: written last, it names every other one."""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew, ArtifactsUnreadable
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.store.atomic_files import header_digest
from neuronmodel_worker.store.keys import ArtifactKind

MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20
FORMAT = 1
"""Raised when older versions could no longer judge what a manifest says; what is only added needs no other."""
CHECKSUM = "checksum"
"""xxh3-128 of everything else in the manifest, as JSON with sorted keys and no spaces. Older ones have none."""
KEPT_BY_NFS = ".nfs"
"""How names of files begin that were removed while a node had them open."""


class Stamp(BaseModel):
    """What every format has."""

    format: PositiveInt = FORMAT


class FileEntry(BaseModel):
    """`header`: xxh3-128 of the bytes before the tensors of a safetensors file."""

    model_config = ConfigDict(frozen=True)

    nbytes: NonNegativeInt
    digest: str
    algorithm: str
    header: str | None = None


class Manifest(Stamp):
    """`inputs` is what the key was made from, for people who ask why a key is what it is; `files` are named by their
    path below the set. More may stand in it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: ArtifactKind
    key: str
    created: datetime
    tool_version: str = Field(default_factory=lambda: version("neuronmodel"))
    source_fingerprint: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, FileEntry]

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.files.values())

    def written(self, under: str = "") -> Mapping[str, WrittenFile]:
        """The files in the folder `under`, by their name in it."""
        prefix = f"{under}/" if under else ""
        names = {name: name.removeprefix(prefix) for name in self.files if name.startswith(prefix)}
        return {short: as_written(short, self.files[name]) for name, short in names.items()}

    def encoded(self) -> bytes:
        """With its checksum."""
        content = self.model_dump(mode="json")
        return json.dumps({**content, CHECKSUM: _checksum(content)}, indent=1).encode()


def as_written(name: str, entry: FileEntry) -> WrittenFile:
    return WrittenFile(name, entry.nbytes, entry.digest, entry.algorithm, entry.header)


def as_entry(file: WrittenFile) -> FileEntry:
    return FileEntry(nbytes=file.nbytes, digest=file.digest, algorithm=file.algorithm, header=file.header)


@dataclass(frozen=True, slots=True)
class SealedSet:
    """A set that passed the quick check."""

    directory: Path
    manifest: Manifest

    @property
    def key(self) -> str:
        return self.manifest.key

    @property
    def nbytes(self) -> int:
        return self.manifest.nbytes

    def files(self, under: str = "") -> dict[str, WrittenFile]:
        """What was sealed in the folder `under`, by name."""
        return dict(self.manifest.written(under))


def read_checked(directory: Path, kind: ArtifactKind, key: str) -> Manifest:
    """The manifest of a set that passes the quick check: it is the one of that key, every file is there, as long as it
    was sealed and with the header that it was sealed with, and there is no other file.

    Raises ArtifactDamaged; ArtifactsTooNew and ArtifactsUnreadable for a set of which nothing can be said.
    """
    try:
        manifest = read_manifest(directory)
        if (manifest.kind, manifest.key) != (kind, key):
            raise ArtifactDamaged(directory, f"its manifest is the one of {manifest.kind} {manifest.key}")
        for problem in quick_problems(directory, manifest):
            raise ArtifactDamaged(directory, problem)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactDamaged(directory, f"{error.filename}: {error.strerror or error}") from error
    except OSError as error:
        raise ArtifactsUnreadable(directory, error) from error
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """What the manifest says, whether or not the files are so.

    Raises ArtifactDamaged, ArtifactsTooNew, and OSError as it comes.
    """
    file = directory / MANIFEST
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactDamaged(directory, "its manifest is no file")
    if found.st_size > MAX_BYTES:
        raise ArtifactDamaged(directory, f"its manifest is {found.st_size:,} bytes long")
    raw = file.read_bytes()
    try:
        if (format_of := Stamp.model_validate_json(raw).format) > FORMAT:
            raise ArtifactsTooNew(directory, format_of, FORMAT)
        content = json.loads(raw)
        if content.pop(CHECKSUM, None) not in (None, _checksum(content)):
            raise ArtifactDamaged(directory, "its manifest is not what was written: its checksum differs")
        return Manifest.model_validate(content)
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise ArtifactDamaged(directory, f"its manifest cannot be read ({first['msg']})") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactDamaged(directory, f"its manifest cannot be read ({error})") from error


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128(canonical.encode()).hexdigest()


def quick_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    """What differs between the files and what the manifest says of them, but for their content. Raises OSError."""
    for name, entry in manifest.files.items():
        yield from file_problems(directory, name, entry)
    for name in sorted(names_below(directory) - manifest.files.keys() - {MANIFEST}):
        yield f"{name} is there and was not sealed"


def file_problems(directory: Path, name: str, entry: FileEntry) -> Iterator[str]:
    """Of one file, but for its content. Raises OSError."""
    if ".." in Path(name).parts or Path(name).is_absolute():
        yield f"its manifest names {name}, which lies outside"
        return
    try:
        found = (directory / name).lstat()
    except (FileNotFoundError, NotADirectoryError):
        yield f"{name} is missing"
        return
    if not stat.S_ISREG(found.st_mode):
        yield f"{name} is no file"
    elif found.st_size != entry.nbytes:
        yield f"{name} is {found.st_size:,} bytes long and was sealed with {entry.nbytes:,}"
    elif entry.header and (header := header_digest(directory / name)) != entry.header:
        yield f"the header of {name} has the digest {header} and was sealed as {entry.header}"


def names_below(directory: Path) -> set[str]:
    """Everything in it that is no folder, by its path."""
    return {
        os.path.relpath(os.path.join(folder, name), directory)  # noqa: PTH118 - thousands of files, not Paths
        for folder, folders, names in os.walk(directory, onerror=_raise)
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(folder, each))))  # noqa: PTH114, PTH118
        if not name.startswith(KEPT_BY_NFS)
    }


def _raise(error: OSError) -> None:
    raise error
