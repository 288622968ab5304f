"""The file that makes a set exist: written last, it names every other one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from neuronmodel_worker.disk import WrittenFile
from neuronmodel_worker.failures import ArtifactDamaged, ArtifactsTooNew, ArtifactsUnreadable
from neuronmodel_worker.store.keys import Kind

MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20
FORMAT = 1
"""Raised when older versions could no longer judge what a manifest says; what is only added needs no other."""


class Stamp(BaseModel):
    """What every format has."""

    format: PositiveInt = FORMAT


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True)

    nbytes: NonNegativeInt
    digest: str
    algorithm: str


class Manifest(Stamp):
    """`inputs` is what the key was made from, for people who ask why a key is what it is; `files` are named by their
    path below the set. More may stand in it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Kind
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
        return {short: WrittenFile(short, *_entry(self.files[name])) for name, short in names.items()}


def _entry(entry: FileEntry) -> tuple[int, str, str]:
    return entry.nbytes, entry.digest, entry.algorithm


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


def read_checked(directory: Path, kind: Kind, key: str) -> Manifest:
    """The manifest of a set that passes the quick check: every file is there and as long as it was sealed.

    Raises ArtifactDamaged; ArtifactsTooNew and ArtifactsUnreadable for a set of which nothing can be said.
    """
    try:
        manifest = read_manifest(directory)
        _check_files(directory, manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactDamaged(directory, f"{error.filename}: {error.strerror or error}") from error
    except OSError as error:
        raise ArtifactsUnreadable(directory, error) from error
    if (manifest.kind, manifest.key) != (kind, key):
        raise ArtifactDamaged(directory, f"its manifest is the one of {manifest.kind} {manifest.key}")
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """What the manifest says, whether or not the files are so.

    Raises ArtifactDamaged, ArtifactsTooNew, and OSError as it comes.
    """
    file = directory / MANIFEST
    if file.stat().st_size > MAX_BYTES:
        raise ArtifactDamaged(directory, f"its manifest is {file.stat().st_size:,} bytes long")
    raw = file.read_bytes()
    try:
        if (found := Stamp.model_validate_json(raw).format) > FORMAT:
            raise ArtifactsTooNew(directory, found, FORMAT)
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise ArtifactDamaged(directory, f"its manifest cannot be read ({first['msg']})") from error


def _check_files(directory: Path, manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ArtifactDamaged(directory, f"its manifest names {name}, which lies outside")
        nbytes = (directory / name).stat().st_size
        if nbytes != entry.nbytes:
            raise ArtifactDamaged(directory, f"{name} is {nbytes:,} bytes long and was sealed with {entry.nbytes:,}")
