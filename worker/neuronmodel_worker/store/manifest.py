"""The manifest, which makes a set exist: it is written last and lists every other file."""

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
"""Is raised when older versions could no longer understand a manifest; a new optional field does not need it."""
CHECKSUM = "checksum"
"""The field with the xxh3-128 of all other fields, as JSON with sorted keys and no spaces. Older manifests have
none."""
KEPT_BY_NFS = ".nfs"
"""The prefix of files that were removed while a node had them open."""


class ManifestFormat(BaseModel):
    """The field that manifests of every format have."""

    format: PositiveInt = FORMAT


class FileEntry(BaseModel):
    """A file of a set. `header` is the xxh3-128 of the bytes before the tensors of a safetensors file."""

    model_config = ConfigDict(frozen=True)

    nbytes: NonNegativeInt
    digest: str
    algorithm: str
    header: str | None = None


class Manifest(ManifestFormat):
    """`inputs` is what the key was made from, to explain why two keys differ; `files` are named by their path in the
    set. Other fields may be present."""

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
        """The manifest as JSON, with its checksum."""
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
        """The files that were sealed in the folder `under`, by name."""
        return dict(self.manifest.written(under))


def read_checked(directory: Path, kind: ArtifactKind, key: str) -> Manifest:
    """The manifest of a set that passes the quick check: the manifest has that key, every file has the size and the
    header that it was sealed with, and there is no other file.

    Raises ArtifactDamaged; ArtifactsTooNew and ArtifactsUnreadable for a set that cannot be judged.
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
    """The manifest of a set, whose files are not checked.

    Raises ArtifactDamaged, ArtifactsTooNew and OSError.
    """
    file = directory / MANIFEST
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactDamaged(directory, "its manifest is no file")
    if found.st_size > MAX_BYTES:
        raise ArtifactDamaged(directory, f"its manifest is {found.st_size:,} bytes long")
    raw = file.read_bytes()
    try:
        if (format_of := ManifestFormat.model_validate_json(raw).format) > FORMAT:
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
    """A sentence for each difference between the files and the manifest, except for their content. Raises OSError."""
    for name, entry in manifest.files.items():
        yield from file_problems(directory, name, entry)
    for name in sorted(names_below(directory) - manifest.files.keys() - {MANIFEST}):
        yield f"{name} is there and was not sealed"


def file_problems(directory: Path, name: str, entry: FileEntry) -> Iterator[str]:
    """As `quick_problems`, for one file. Raises OSError."""
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
    """The paths of everything in a directory that is not a directory itself."""
    return {
        os.path.relpath(os.path.join(folder, name), directory)  # noqa: PTH118 - thousands of files, not Paths
        for folder, folders, names in os.walk(directory, onerror=_raise)
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(folder, each))))  # noqa: PTH114, PTH118
        if not name.startswith(KEPT_BY_NFS)
    }


def _raise(error: OSError) -> None:
    raise error
