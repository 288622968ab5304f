"""`/{id}/resolve/…`: where a file's bytes are. Large ones are at the CDN, the others in a cache on the same host."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ..faulty_http import Request, Response
from .access import Token, readable
from .listings import entry_not_found
from .ranges import part_of_file
from .refusals import Refused
from .repository import Commit, Repositories, Repository, RepositoryFile
from .routes import commit_of, redirect, split_cached, split_id, to_new_name
from .settings import Addresses, Settings
from .signing import Signer

RESOLVE: Final = frozenset({"resolve"})


@dataclass(frozen=True)
class Resolving:
    repositories: Repositories
    signer: Signer
    addresses: Addresses
    settings: Settings

    def answer(self, request: Request, token: Token | None) -> Response:
        """302 to the CDN, or 307 to the cache."""
        id, tail = split_id(request.segments, RESOLVE, self.repositories)
        if moved := to_new_name(request, id, self.repositories):
            return moved
        repository = readable(self.repositories.get(id), token)
        commit = commit_of(repository, *tail[1:2])
        file = _file(commit, "/".join(tail[2:]))
        headers = self._headers(repository, commit, file)
        if file.sha256:
            return redirect(302, self._at_the_cdn(repository, file), headers)
        return redirect(307, _in_the_cache(request, repository, commit, file), headers)

    def cached(self, request: Request, parts: list[str], token: Token | None) -> Response:
        """The bytes; the query that the redirect had is needed."""
        id, sha, path = split_cached(parts)
        commit = commit_of(readable(self.repositories.get(id), token), sha)
        file = _file(commit, path)
        etag = f'"{file.oid}"'
        if request.query.get("etag") != etag:
            raise Refused(400, "The query of the redirect is missing or is not of this file")
        is_known = request.headers.get("if-none-match") == etag
        response = Response(304) if is_known else part_of_file(file, request.range)
        told = {"X-Repo-Commit": commit.sha, "ETag": etag, "Content-Type": "text/plain; charset=utf-8"}
        return Response(response.status, {**told, **response.headers}, response.body)

    def file(self, request: Request) -> str | None:
        """The path in its repository that a request is for."""
        parts = request.segments
        if parts[:3] == ["api", "resolve-cache", "models"]:
            return split_cached(parts[3:])[2]
        if "resolve" in parts[1:3]:
            return "/".join(split_id(parts, RESOLVE, self.repositories)[1][2:])
        return None

    def _at_the_cdn(self, repository: Repository, file: RepositoryFile) -> str:
        path = f"/repos/{repository.key}/{file.sha256}"
        name = quote(file.path.rpartition("/")[2])
        return f"{self.addresses.cdn}{path}?{self.signer.query(path, name)}"

    def _headers(self, repository: Repository, commit: Commit, file: RepositoryFile) -> dict[str, str]:
        headers = {
            "X-Repo-Commit": commit.sha,
            "Accept-Ranges": "bytes",
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{file.etag}"',
        }
        return headers | (self._xet_headers(repository, commit, file) if self.settings.xet and file.sha256 else {})

    def _xet_headers(self, repository: Repository, commit: Commit, file: RepositoryFile) -> dict[str, str]:
        read_token = f"{self.addresses.hub}/api/models/{repository.id}/xet-read-token/{commit.sha}"
        reconstruction = f"{self.addresses.cdn}/v1/reconstructions/{file.xet_hash}"
        links = f'<{read_token}>; rel="xet-auth", <{reconstruction}>; rel="xet-reconstruction-info"'
        return {"X-Xet-Hash": file.xet_hash, "Link": links}


def _in_the_cache(request: Request, repository: Repository, commit: Commit, file: RepositoryFile) -> str:
    """A path without a host, with the path that was asked for and the file's name in git as the query."""
    path = f"/api/resolve-cache/models/{repository.id}/{commit.sha}/{quote(file.path)}"
    return f"{path}?{quote(request.quoted_path, safe='')}=&etag=%22{file.oid}%22"


def _file(commit: Commit, path: str) -> RepositoryFile:
    if path not in commit.files:
        raise entry_not_found(path, commit)
    return commit.files[path]
