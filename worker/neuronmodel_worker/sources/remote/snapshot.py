"""What is kept of a commit, or of a state of a bucket, so that a start need not ask for it: the list of files, small
files, and weights' headers.

    <folder>/<org--name>/revisions/<digest>.json       the commit that a branch or a tag was at
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
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ValidationError

from neuronmodel_worker.io.disk import sync
from neuronmodel_worker.sources.interface import DIGEST
from neuronmodel_worker.sources.listed_digests import ListedDigest
from neuronmodel_worker.sources.remote.listed_file import ListedFile

LIST: Final = "snapshot.json"
FILES: Final = "files"
HEADERS: Final = "headers"
REVISIONS: Final = "revisions"
TEMPORARY: Final = ".snapshot-"
DAMAGED: Final = ".damaged"
FORMAT: Final = 1
NAMES: Final = (
    "config.json", "generation_config.json", "*.safetensors.index.json", "tokenizer*.json", "tekken.json", "*.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.jinja",
    "adapter_config.json", "*quant*config.json", "params.json",
)  # fmt: skip
"""Of small files that something reads: configurations, indices, tokenizers, templates."""
MAX_FILE_BYTES: Final = 100_000_000
MAX_NAME_BYTES: Final = 200
MAX_SNAPSHOTS: Final = 16
"""Of one repository; beyond this those are removed that were not opened for UNUSED_SECONDS."""
DIRECTORY_MODE: Final = 0o770
UNUSED_SECONDS: Final = timedelta(days=30).total_seconds()
LEFT_SECONDS: Final = timedelta(hours=1).total_seconds()


class _List(BaseModel):
    format: int = FORMAT
    repository: str
    commit: str
    files: tuple[ListedFile, ...]
    headers: dict[str, str]
    """The sha256 of each header that is kept."""


class _NotedRevision(BaseModel):
    commit: str
    resolved_at: datetime


def is_small(file: ListedFile) -> bool:
    """Whether a file is kept whole."""
    return file.nbytes <= MAX_FILE_BYTES and any(fnmatchcase(file.name, pattern) for pattern in NAMES)


def is_content_of(file: ListedFile, content: bytes) -> bool:
    """Whether a file's whole content is the one that is listed."""
    digest = file.sha256 or file.oid
    if len(content) != file.nbytes or not digest:
        return len(content) == file.nbytes
    listed = ListedDigest(digest, file.nbytes)
    listed.update(content)
    return listed.matches


@dataclass(frozen=True)
class KeptSnapshot:
    """A snapshot that was read."""

    directory: Path
    files: tuple[ListedFile, ...]
    headers: Mapping[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether every file that is kept is as it was written. Reads them."""
        return all(self.content(file) is not None for file in self.files if is_small(file)) and all(
            self.header(file) is not None for file in self.files if file.name in self.headers
        )

    def content(self, file: ListedFile) -> bytes | None:
        """The content of a small file; None where it is not kept, or is damaged."""
        try:
            content = (self.directory / FILES / file.name).read_bytes()
        except OSError:
            return None
        return content if is_content_of(file, content) else None

    def header(self, file: ListedFile) -> bytes | None:
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
        name = self.repository.replace("/", "--")
        if len(name.encode()) > MAX_NAME_BYTES:  # a bucket's prefix may be longer than any file's name
            name = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / name

    @classmethod
    def of(cls, folder: Path | None, repository: str) -> Self | None:
        return cls(folder, repository) if folder else None

    def read(self, commit: str) -> KeptSnapshot | None:
        directory = self._root / commit
        try:
            found = _List.model_validate_json((directory / LIST).read_bytes())
        except (OSError, ValidationError):
            return None
        if (found.format, found.repository, found.commit) != (FORMAT, self.repository, commit):
            return None
        with suppress(OSError):  # a volume that takes no write
            os.utime(directory)
        return KeptSnapshot(directory, found.files, found.headers)

    def write(
        self,
        commit: str,
        files: Iterable[ListedFile],
        contents: Mapping[str, bytes],
        headers: Mapping[str, bytes],
        in_use: Set[str] = frozenset(),
    ) -> KeptSnapshot:
        """Keeps a snapshot, in place of a damaged one. Where another worker was faster, its snapshot is returned.

        Raises OSError.
        """
        _make_for_group(self._root)
        made = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self._root))
        try:
            made.chmod(DIRECTORY_MODE)
            for folder, named in ((FILES, contents), (HEADERS, headers)):
                _make_for_group(made / folder)
                for name, content in named.items():
                    _write(made / folder / name, content)
                sync(made / folder)
            digests = {name: hashlib.sha256(header).hexdigest() for name, header in headers.items()}
            found = _List(repository=self.repository, commit=commit, files=tuple(files), headers=digests)
            _write(made / LIST, found.model_dump_json().encode())
            sync(made)
            self._publish(made, commit, headers.keys())
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        self._remove_oldest({commit, *in_use})
        snapshot = self.read(commit)
        if snapshot is None or not snapshot.is_whole:
            raise OSError(0, "what was written there cannot be read", str(self._root / commit))
        return snapshot

    def _publish(self, made: Path, commit: str, headers: Set[str]) -> None:
        place, there = self._root / commit, self.read(commit)
        if there is None or not there.is_whole or not headers <= there.headers.keys():
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

    def _remove_oldest(self, kept: Set[str]) -> None:
        """Removes snapshots beyond the limit that were not opened for long, and what killed workers left."""
        now = datetime.now(UTC).timestamp()
        with suppress(OSError):
            found = sorted((now - each.stat().st_mtime, each) for each in self._root.iterdir())
            left = [each for age, each in found if each.name.startswith(TEMPORARY) and age > LEFT_SECONDS]
            whole = [(age, each) for age, each in found if DIGEST.fullmatch(each.name) and each.name not in kept]
            unused = [each for age, each in whole[MAX_SNAPSHOTS - 1 :] if age > UNUSED_SECONDS]
            for each in (*left, *unused):
                shutil.rmtree(each, ignore_errors=True)

    def note_revision(self, revision: str, commit: str, at: datetime) -> None:
        """Records which commit a branch or a tag is at. A volume that takes no write is no obstacle."""
        with suppress(OSError):
            _make_for_group(self._root / REVISIONS)
            place = self._revision(revision)
            temporary = self._root / f"{TEMPORARY}{os.urandom(4).hex()}"
            _write(temporary, _NotedRevision(commit=commit, resolved_at=at).model_dump_json().encode())
            temporary.rename(place)

    def noted_revision(self, revision: str) -> tuple[str, datetime] | None:
        """The commit that a revision was at when it was last asked for, and when, if that commit's snapshot is
        there."""
        try:
            found = _NotedRevision.model_validate_json(self._revision(revision).read_bytes())
        except (OSError, ValidationError):
            return None
        return (found.commit, found.resolved_at) if self.read(found.commit) else None

    def _revision(self, revision: str) -> Path:
        """The file of a revision, whose name may have any characters and any length."""
        return self._root / REVISIONS / f"{hashlib.sha256(revision.encode()).hexdigest()[:32]}.json"


def _make_for_group(directory: Path) -> None:
    """Makes a directory that others of the group may change: the Job and the worker share one, not always a user."""
    for each in (directory.parent, directory):
        each.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # it belongs to another user, who has set the mode
            each.chmod(DIRECTORY_MODE)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
