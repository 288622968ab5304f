"""What the Hub's API tells of a repository, as JSON."""

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from .refusals import Refused
from .repository import Commit, Repository, RepositoryFile

DATE = "2026-01-01T00:00:00.000Z"
Entry = dict[str, Any]


def model(repository: Repository, commit: Commit, *, blobs: bool) -> Entry:
    """`GET /api/models/{id}`."""
    return {
        "_id": repository.key,
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.rpartition("/")[0] or None,
        "sha": commit.sha,
        "lastModified": DATE,
        "createdAt": DATE,
        "private": repository.private,
        "gated": repository.gated,
        "disabled": repository.disabled,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "usedStorage": sum(file.size for file in commit.files.values()),
        "siblings": [_sibling(file, blobs) for file in commit.files.values()],
    }


def tree(commit: Commit, path: str, *, recursive: bool, expand: bool, with_xet: bool) -> list[Entry]:
    """Below a path, by name; Refused where there is no such folder."""
    folders = commit.folders()
    if path and path not in folders:
        raise entry_not_found(path, commit)
    listed: dict[str, Entry] = {name: _folder(name, oid) for name, oid in folders.items()}
    listed |= {file.path: entry(file, with_xet=with_xet) for file in commit.files.values()}
    inside = _is_below(path, recursive)
    return [_expanded(listed[name], commit, expand) for name in sorted(listed) if inside(name)]


def page(entries: list[Entry], cursor: str | None, size: int) -> tuple[list[Entry], str | None]:
    """Entries after a cursor, and the cursor of what follows them."""
    after = base64.urlsafe_b64decode(cursor).decode() if cursor else ""
    left = [item for item in entries if item["path"] > after]
    shown = left[:size]
    following = base64.urlsafe_b64encode(shown[-1]["path"].encode()).decode() if len(left) > size else None
    return shown, following


def link_to_next(url: str, query: Mapping[str, str], cursor: str) -> str:
    return f'<{url}?{urlencode({**query, "cursor": cursor})}>; rel="next"'


def paths_info(commit: Commit, paths: Iterable[str], *, expand: bool, with_xet: bool) -> list[Entry]:
    """Of those that exist."""
    folders = commit.folders()
    found = []
    for path in paths:
        if file := commit.files.get(path):
            found.append(_expanded(entry(file, with_xet=with_xet), commit, expand))
        elif path in folders:
            found.append(_expanded(_folder(path, folders[path]), commit, expand))
    return found


def entry(file: RepositoryFile, *, with_xet: bool) -> Entry:
    made: Entry = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.sha256:
        made["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
        made |= {"xetHash": file.xet_hash} if with_xet else {}
    return made


def entry_not_found(path: str, commit: Commit) -> Refused:
    message = f"{path} does not exist on the revision"
    return Refused(404, message, "EntryNotFound", {"X-Repo-Commit": commit.sha})


def _sibling(file: RepositoryFile, blobs: bool) -> Entry:
    if not blobs:
        return {"rfilename": file.path}
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    made = {"rfilename": file.path, "size": file.size, "blobId": file.oid}
    return {**made, "lfs": lfs} if file.sha256 else made


def _folder(path: str, oid: str) -> Entry:
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _is_below(path: str, recursive: bool) -> Callable[[str], bool]:
    start = f"{path}/" if path else ""
    return lambda name: name.startswith(start) and (recursive or "/" not in name[len(start) :])


def _expanded(made: Entry, commit: Commit, expand: bool) -> Entry:
    if not expand:
        return made
    last = {"id": commit.sha, "title": "Upload", "date": DATE}
    scans = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return {**made, "lastCommit": last} | ({"securityFileStatus": scans} if made["type"] == "file" else {})
