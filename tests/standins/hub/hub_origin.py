"""The Hub itself: its API, and the redirects of its files to where their bytes are."""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from . import listings, rates
from .access import Access, Token, found, readable
from .messages import Refused, Request, Response, Text, json_response
from .ranges import part_of_file
from .repository import Commit, Repositories, Repository, RepositoryFile
from .signing import Signer

ACTIONS: Final = frozenset({"revision", "tree", "paths-info", "auth-check", "xet-read-token"})
RESOLVE: Final = frozenset({"resolve"})
SHA: Final = re.compile("[0-9a-f]{40}")
TEXT: Final = {"Content-Type": "text/plain; charset=utf-8"}


@dataclass
class Settings:
    page_size: int = 1000
    """Of a tree."""
    expanded_page_size: int = 50
    xet: bool = False
    """Files say that they are on Xet too; there is none of its servers behind it, so a client has to do without."""


@dataclass
class Addresses:
    """As they are told to clients, without a slash at the end."""

    hub: str = ""
    cdn: str = ""


@dataclass
class HubOrigin:
    repositories: Repositories
    access: Access
    signer: Signer
    rates: rates.Rates
    addresses: Addresses
    settings: Settings = field(default_factory=Settings)
    name: str = "hub"

    def answer(self, request: Request) -> Response:
        """Limits are told with every answer."""
        try:
            token, refusal = self.access.token(request.authorization), None
        except Refused as refused:
            token, refusal = None, refused
        limits = self._limits(request, token)
        try:
            response = self._refuse(refusal) if refusal else self._route(request, token)
        except Refused as refused:
            response = refused.response()
        response.headers |= {**limits, "X-Powered-By": "huggingface-moon", "X-Request-Id": f"Root=1-{_request_id()}"}
        return response

    def file(self, request: Request) -> str | None:
        parts = request.segments
        if parts[:3] == ["api", "resolve-cache", "models"]:
            return _cached_file(parts[3:])[2]
        if "resolve" in parts[1:3]:
            return "/".join(_split(parts, RESOLVE, self.repositories)[1][2:])
        return None

    def _limits(self, request: Request, token: Token | None) -> dict[str, str]:
        user = token.user if token else None
        parts = request.segments
        if parts[:2] == ["api", "resolve-cache"]:
            return self.rates.take(rates.RESOLVERS, user, cost=0)
        kind = rates.API if parts[0] == "api" else rates.RESOLVERS if "resolve" in parts[1:3] else rates.PAGES
        return self.rates.take(kind, user)

    @staticmethod
    def _refuse(refusal: Refused) -> Response:
        raise refusal

    def _route(self, request: Request, token: Token | None) -> Response:
        parts = request.segments
        if parts[:2] == ["api", "models"] and len(parts) > 2:
            return self._api(request, parts[2:], token)
        if parts[:3] == ["api", "resolve-cache", "models"]:
            return self._resolve_cache(request, parts[3:], token)
        if parts == ["api", "whoami-v2"]:
            return _whoami(token)
        if "resolve" in parts[1:3]:
            return self._resolve(request, parts, token)
        raise Refused(404, "Sorry, we can't find the page you are looking for.")

    def _api(self, request: Request, parts: list[str], token: Token | None) -> Response:
        id, tail = _split(parts, ACTIONS, self.repositories)
        if moved := self._moved(request, id):
            return moved
        repository = found(self.repositories.get(id), token)
        action, *rest = tail or ["revision"]
        answers: dict[str, Callable[[Request, Repository, list[str]], Response]] = {
            "revision": self._model,
            "tree": self._tree,
            "paths-info": self._paths_info,
            "auth-check": lambda request, repository, rest: self._checked(repository, token),
            "xet-read-token": lambda request, repository, rest: self._xet_token(repository, rest, token),
        }
        if action not in answers:
            raise Refused(404, "Sorry, we can't find the page you are looking for.")
        return answers[action](request, repository, rest)

    def _model(self, request: Request, repository: Repository, rest: list[str]) -> Response:
        commit = _commit(repository, rest)
        return json_response(listings.model(repository, commit, blobs=_flag(request.query.get("blobs"))))

    def _tree(self, request: Request, repository: Repository, rest: list[str]) -> Response:
        query, commit = request.query, _commit(repository, rest)
        expand = _flag(query.get("expand"))
        entries = listings.tree(
            commit,
            "/".join(rest[1:]),
            recursive=_flag(query.get("recursive")),
            expand=expand,
            with_xet=self.settings.xet,
        )
        size = self.settings.expanded_page_size if expand else self.settings.page_size
        shown, following = listings.page(entries, query.get("cursor"), min(size, int(query.get("limit", size))))
        url = self.addresses.hub + request.quoted_path
        links = {"Link": listings.link_to_next(url, query, following)} if following else {}
        return json_response(shown, headers={"X-Repo-Commit": commit.sha, **links})

    def _paths_info(self, request: Request, repository: Repository, rest: list[str]) -> Response:
        commit = _commit(repository, rest)
        if request.headers.get("content-type", "").startswith("application/json"):
            given = json.loads(request.body)
            paths, expand = given["paths"], bool(given.get("expand"))
        else:
            form = parse_qs(request.body.decode())
            paths, expand = form.get("paths", []), _flag(form.get("expand", [""])[0])
        return json_response(listings.paths_info(commit, paths, expand=expand, with_xet=self.settings.xet))

    def _checked(self, repository: Repository, token: Token | None) -> Response:
        readable(repository, token)
        return Response(200, dict(TEXT), Text(b"OK"))

    def _xet_token(self, repository: Repository, rest: list[str], token: Token | None) -> Response:
        """As a client needs it to ask the CDN for `/v2/reconstructions/…`, which is recorded and not found there."""
        readable(repository, token)
        _commit(repository, rest)
        expires = int(self.signer.clock() + self.signer.lifetime_seconds)
        told = {"casUrl": self.addresses.cdn, "accessToken": "xet", "exp": expires}
        headers = {"X-Xet-Cas-Url": told["casUrl"], "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expires)}
        return json_response(told, headers={name: str(value) for name, value in headers.items()})

    def _resolve(self, request: Request, parts: list[str], token: Token | None) -> Response:
        id, tail = _split(parts, RESOLVE, self.repositories)
        if moved := self._moved(request, id):
            return moved
        repository = readable(self.repositories.get(id), token)
        commit = _commit(repository, tail[1:])
        path = "/".join(tail[2:])
        if path not in commit.files:
            raise listings.entry_not_found(path, commit)
        file = commit.files[path]
        redirect = self._to_cdn if file.sha256 else self._to_cache
        status, location = redirect(request, repository, commit, file)
        return Response(
            status,
            {**TEXT, "Location": location, **self._headers(repository, commit, file)},
            _moved_text(status, location),
        )

    def _to_cdn(
        self, request: Request, repository: Repository, commit: Commit, file: RepositoryFile
    ) -> tuple[int, str]:
        path = f"/repos/{repository.key}/{file.sha256}"
        name = quote(file.path.rpartition("/")[2])
        return 302, f"{self.addresses.cdn}{path}?{self.signer.query(path, name)}"

    def _to_cache(
        self, request: Request, repository: Repository, commit: Commit, file: RepositoryFile
    ) -> tuple[int, str]:
        """Relative, and with a query that has to be kept."""
        asked = quote(request.quoted_path, safe="")
        path = f"/api/resolve-cache/models/{repository.id}/{commit.sha}/{quote(file.path)}"
        return 307, f"{path}?{asked}=&etag=%22{file.oid}%22"

    def _headers(self, repository: Repository, commit: Commit, file: RepositoryFile) -> dict[str, str]:
        headers = {
            "X-Repo-Commit": commit.sha,
            "Accept-Ranges": "bytes",
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{file.etag}"',
        }
        if self.settings.xet and file.sha256:
            read_token = f"{self.addresses.hub}/api/models/{repository.id}/xet-read-token/{commit.sha}"
            reconstruction = f"{self.addresses.cdn}/v1/reconstructions/{file.xet_hash}"
            links = f'<{read_token}>; rel="xet-auth", <{reconstruction}>; rel="xet-reconstruction-info"'
            headers |= {"X-Xet-Hash": file.xet_hash, "Link": links}
        return headers

    def _resolve_cache(self, request: Request, parts: list[str], token: Token | None) -> Response:
        id, sha, path = _cached_file(parts)
        repository = readable(self.repositories.get(id), token)
        commit = _commit(repository, [sha])
        file = commit.files.get(path)
        if file is None:
            raise listings.entry_not_found(path, commit)
        if request.query.get("etag") != f'"{file.oid}"':
            raise Refused(400, "The query of the redirect is missing or is not of this file")
        return _content(request, commit, file)

    def _moved(self, request: Request, id: str) -> Response | None:
        """A repository that was renamed: on the same host, with the same query."""
        if id not in self.repositories.renamed:
            return None
        new, status = self.repositories.renamed[id]
        parsed = urlsplit(request.target)
        location = parsed.path.replace(f"/{quote(id)}", f"/{quote(new)}", 1) + (
            f"?{parsed.query}" if parsed.query else ""
        )
        return Response(status, {**TEXT, "Location": location}, _moved_text(status, location))


def _content(request: Request, commit: Commit, file: RepositoryFile) -> Response:
    etag = f'"{file.oid}"'
    headers = {"X-Repo-Commit": commit.sha, "ETag": etag, "Content-Type": "text/plain; charset=utf-8"}
    if request.headers.get("if-none-match") == etag:
        return Response(304, headers)
    response = part_of_file(file, request.range)
    response.headers = {**headers, **response.headers}
    return response


def _commit(repository: Repository, rest: list[str]) -> Commit:
    revision = rest[0] if rest else "main"
    commit = repository.commit(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def _split(parts: list[str], actions: frozenset[str], repositories: Repositories) -> tuple[str, list[str]]:
    """The repository's id, of one part or two, and what follows it."""
    two = "/".join(parts[:2])
    has_one_part = len(parts) == 1 or (parts[1] in actions and two not in repositories)
    return (parts[0], parts[1:]) if has_one_part else (two, parts[2:])


def _cached_file(parts: list[str]) -> tuple[str, str, str]:
    """Id, sha and path; the sha tells how many parts the id has."""
    at = 1 if len(parts) > 1 and SHA.fullmatch(parts[1]) else 2
    return "/".join(parts[:at]), "".join(parts[at : at + 1]), "/".join(parts[at + 1 :])


def _whoami(token: Token | None) -> Response:
    if token is None:
        raise Refused(401, "Invalid username or password.")
    return json_response({"type": "user", "name": token.user, "fullname": token.user, "orgs": []})


def _moved_text(status: int, location: str) -> Text:
    return Text(f"{'Found' if status == 302 else 'Temporary Redirect'}. Redirecting to {location}".encode())


def _flag(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1")


def _request_id() -> str:
    return f"{secrets.token_hex(4)}-{secrets.token_hex(12)}"
