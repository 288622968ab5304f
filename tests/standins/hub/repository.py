"""Repositories: folders on disk as commits, and the branches and tags that point at them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

from . import digests

LARGE_BYTES: Final = 10 << 20
"""The Hub takes no larger file into git itself."""
LARGE_NAMES: Final = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.h5")

Gated = Literal["auto", "manual"] | bool


@dataclass(frozen=True)
class RepositoryFile:
    path: str
    location: Path
    size: int
    mtime_ns: int
    oid: str
    """Git's name of it; of a large file that of its pointer."""
    sha256: str | None
    """Of a large file, which is in LFS."""

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    @property
    def pointer_size(self) -> int:
        return len(digests.lfs_pointer(self.sha256 or "", self.size))

    @property
    def xet_hash(self) -> str:
        """Stands for it only: the true one is of a tree of chunks."""
        return hashlib.sha256(f"xet {self.etag}".encode()).hexdigest()

    def is_unchanged(self) -> bool:
        try:
            stat = self.location.stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass(frozen=True)
class Commit:
    sha: str
    files: Mapping[str, RepositoryFile]

    def folders(self) -> dict[str, str]:
        """Paths of all folders, with a name for each by what is in it."""
        paths = {str(parent) for path in self.files for parent in Path(path).parents} - {"."}
        return {
            path: _digest(file for file in self.files.values() if file.path.startswith(f"{path}/")) for path in paths
        }


@dataclass
class Repository:
    id: str
    private: bool = False
    gated: Gated = False
    disabled: bool = False
    grants: set[str] = field(default_factory=set)
    """Users who may read it where it is private or gated."""
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    """Branches, tags and `refs/pr/…`, each with its commit."""
    large: tuple[str, ...] = ()
    """Patterns of files in LFS, beside the usual ones."""
    key: str = ""
    """What stands for it in the CDN's URLs, which do not tell its name."""

    def __post_init__(self) -> None:
        self.key = self.key or hashlib.sha1(self.id.encode()).hexdigest()[:24]

    @property
    def main(self) -> str:
        return self.refs["main"]

    @main.setter
    def main(self, sha: str) -> None:
        self.point("main", sha)

    def add_revision(self, folder: Path | str, *names: str) -> str:
        """A commit of a folder's content, which these branches or tags then point at; its sha.

        The same content has the same sha. The folder has to stay as it is: a file that was changed since is answered
        with 500, as no commit ever has other bytes.
        """
        files = {file.path: file for file in self._files(Path(folder).absolute())}
        commit = Commit(_digest(files.values()), files)
        self.commits[commit.sha] = commit
        for name in names:
            self.point(name, commit.sha)
        return commit.sha

    def point(self, name: str, sha: str) -> None:
        """KeyError where there is no such commit."""
        self.refs[name] = self.commits[sha].sha

    def commit(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision, revision))

    def _files(self, folder: Path) -> Iterator[RepositoryFile]:
        for location in sorted(folder.rglob("*")):
            path = location.relative_to(folder).as_posix()
            if location.is_file() and not path.startswith(".git/"):
                yield self._file(path, location)

    def _file(self, path: str, location: Path) -> RepositoryFile:
        stat = location.stat()
        sha256 = digests.sha256(location) if self._is_large(path, stat.st_size) else None
        pointer = digests.lfs_pointer(sha256, stat.st_size) if sha256 else None
        oid = digests.git_blob_of(pointer) if pointer else digests.git_blob(location)
        return RepositoryFile(path, location, stat.st_size, stat.st_mtime_ns, oid, sha256)

    def _is_large(self, path: str, size: int) -> bool:
        return size > LARGE_BYTES or any(fnmatchcase(path, pattern) for pattern in (*LARGE_NAMES, *self.large))


class Repositories:
    """All of a Hub's, by id, and where those went that have another name now."""

    def __init__(self) -> None:
        self._by_id: dict[str, Repository] = {}
        self.renamed: dict[str, tuple[str, int]] = {}
        """Old ids: the new one, and the status that a redirect to it has."""

    def __iter__(self) -> Iterator[Repository]:
        return iter(list(self._by_id.values()))

    def __contains__(self, id: str) -> bool:
        return id in self._by_id or id in self.renamed

    def add(self, repository: Repository) -> None:
        self._by_id[repository.id] = repository
        self.renamed.pop(repository.id, None)

    def get(self, id: str) -> Repository | None:
        return self._by_id.get(id)

    def rename(self, old: str, new: str, status: int = 307) -> None:
        repository = self._by_id.pop(old)
        repository.id = new
        self.renamed[old] = (new, status)
        self.add(repository)

    def large_file(self, key: str, sha256: str) -> RepositoryFile | None:
        """By what the CDN knows of it."""
        commits = [commit for repository in self if repository.key == key for commit in repository.commits.values()]
        return next((file for commit in commits for file in commit.files.values() if file.sha256 == sha256), None)


def _digest(files: Iterable[RepositoryFile]) -> str:
    lines = sorted(f"{file.path}\0{file.oid}\n" for file in files)
    return hashlib.sha1("".join(lines).encode()).hexdigest()
