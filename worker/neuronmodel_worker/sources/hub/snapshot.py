"""What is kept of a commit so that a start need not ask for it: the list of files, small files, and weights' headers.

    <folder>/<org--name>/revisions/<revision>.json     the commit that a branch or a tag was at
    <folder>/<org--name>/<commit>/snapshot.json        the list of files
    <folder>/<org--name>/<commit>/files/<name>         small files, which tokenizers and others read as a folder
    <folder>/<org--name>/<commit>/headers/<name>       the first bytes of a safetensors file, up to its tensors

A snapshot gets its name when it is whole and on the disk. One that is damaged counts as absent: it costs some requests.
Code is not kept.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from neuronmodel_worker.io.disk import sync
from neuronmodel_worker.sources.hub.client import HubFile

LIST: Final = "snapshot.json"
FILES: Final = "files"
HEADERS: Final = "headers"
REVISIONS: Final = "revisions"
TEMPORARY: Final = ".snapshot-"
DAMAGED: Final = ".damaged"
FORMAT: Final = 1
SUFFIXES: Final = (".json", ".jinja", ".txt", ".model")
"""Of small files: configurations, indices, tokenizers, templates."""
MAX_FILE_BYTES: Final = 100_000_000
MAX_SNAPSHOTS: Final = 16
"""Of one repository; beyond this the oldest is removed."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    nbytes: int
    oid: str
    sha256: str | None = None


class _List(BaseModel):
    format: int = FORMAT
    repository: str
    commit: str
    files: tuple[_Entry, ...]
    headers: dict[str, str]
    """The sha256 of each header that is kept."""


class _Revision(BaseModel):
    commit: str
    resolved_at: datetime


def is_small(file: HubFile) -> bool:
    """Whether a file is kept whole."""
    return file.name.endswith(SUFFIXES) and file.nbytes <= MAX_FILE_BYTES


def is_content_of(file: HubFile, content: bytes) -> bool:
    """Whether a file's whole content is the one that is listed."""
    if len(content) != file.nbytes:
        return False
    if file.sha256:
        return hashlib.sha256(content).hexdigest() == file.sha256
    return not file.oid or git_digest(content) == file.oid


def git_digest(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Snapshot:
    """A snapshot that was read."""

    directory: Path
    files: tuple[HubFile, ...]
    headers: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether every file that is kept is as it was written. Reads them."""
        return all(self.content(file) is not None for file in self.files if is_small(file)) and all(
            self.header(file) is not None for file in self.files if file.name in self.headers
        )

    def content(self, file: HubFile) -> bytes | None:
        """The content of a small file; None where it is not kept, or is damaged."""
        try:
            content = (self.directory / FILES / file.name).read_bytes()
        except OSError:
            return None
        return content if is_content_of(file, content) else None

    def header(self, file: HubFile) -> bytes | None:
        """The first bytes of a file of weights; None where they are not kept."""
        try:
            header = (self.directory / HEADERS / file.name).read_bytes()
        except OSError:
            return None
        return header if hashlib.sha256(header).hexdigest() == self.headers.get(file.name) else None


@dataclass(frozen=True)
class Snapshots:
    """The snapshots of one repository below `folder`."""

    folder: Path
    repository: str

    @property
    def _root(self) -> Path:
        return self.folder / self.repository.replace("/", "--")

    @classmethod
    def of(cls, folder: Path | None, repository: str) -> Self | None:
        return cls(folder, repository) if folder else None

    def read(self, commit: str) -> Snapshot | None:
        directory = self._root / commit
        try:
            found = _List.model_validate_json((directory / LIST).read_bytes())
        except (OSError, ValidationError):
            return None
        if (found.format, found.repository, found.commit) != (FORMAT, self.repository, commit):
            return None
        return Snapshot(directory, tuple(HubFile(**each.model_dump()) for each in found.files), found.headers)

    def write(
        self, commit: str, files: Iterable[HubFile], contents: Mapping[str, bytes], headers: Mapping[str, bytes]
    ) -> Snapshot:
        """Keeps a snapshot, in place of a damaged one. Where another worker was faster, its snapshot is returned.

        Raises OSError.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self._root))
        try:
            made.chmod(0o755)
            for folder, named in ((FILES, contents), (HEADERS, headers)):
                (made / folder).mkdir()
                for name, content in named.items():
                    _write(made / folder / name, content)
                sync(made / folder)
            entries = tuple(
                _Entry(name=each.name, nbytes=each.nbytes, oid=each.oid, sha256=each.sha256) for each in files
            )
            digests = {name: hashlib.sha256(header).hexdigest() for name, header in headers.items()}
            found = _List(repository=self.repository, commit=commit, files=entries, headers=digests)
            _write(made / LIST, found.model_dump_json().encode())
            sync(made)
            self._publish(made, commit)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        self._remove_oldest(commit)
        snapshot = self.read(commit)
        if snapshot is None:
            raise OSError(0, "what was written there cannot be read", str(self._root / commit))
        return snapshot

    def _publish(self, made: Path, commit: str) -> None:
        place, there = self._root / commit, self.read(commit)
        if there is None or not there.is_whole:
            with suppress(OSError):
                place.rename(made / DAMAGED)
        try:
            made.rename(place)
        except OSError:
            if self.read(commit) is None:
                raise
            shutil.rmtree(made, ignore_errors=True)
        sync(self._root)
        shutil.rmtree(place / DAMAGED, ignore_errors=True)

    def _remove_oldest(self, kept: str) -> None:
        """Removes snapshots beyond the limit, and what killed workers left an hour ago."""
        with suppress(OSError):
            found = sorted((each.stat().st_mtime, each) for each in self._root.iterdir() if each.name != REVISIONS)
            now = datetime.now(UTC).timestamp()
            left = [each for at, each in found if each.name.startswith(TEMPORARY) and now - at > 3600]
            whole = [each for _, each in found if not each.name.startswith(TEMPORARY) and each.name != kept]
            for each in (*left, *whole[: max(0, len(whole) + 1 - MAX_SNAPSHOTS)]):
                shutil.rmtree(each, ignore_errors=True)

    def note_revision(self, revision: str, commit: str) -> None:
        """Records which commit a branch or a tag is at. A volume that takes no write is no obstacle."""
        with suppress(OSError):
            (self._root / REVISIONS).mkdir(parents=True, exist_ok=True)
            place = self._revision(revision)
            temporary = place.with_name(f"{TEMPORARY}{os.urandom(4).hex()}")
            _write(temporary, _Revision(commit=commit, resolved_at=datetime.now(UTC)).model_dump_json().encode())
            temporary.rename(place)

    def noted_commit(self, revision: str) -> str | None:
        """The commit that a revision was at when it was last asked for, if that commit's snapshot is there."""
        try:
            found = _Revision.model_validate_json(self._revision(revision).read_bytes())
        except (OSError, ValidationError):
            return None
        return found.commit if self.read(found.commit) else None

    def _revision(self, revision: str) -> Path:
        return self._root / REVISIONS / f"{quote(revision, safe='')}.json"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
