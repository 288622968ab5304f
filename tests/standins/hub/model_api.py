"""`/api/models/…`: a repository's description, its tree, some of its paths, and whether one may read it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from ..faulty_http import Request, Response, Text
from . import listings
from .access import Token, found, readable
from .refusals import json_response
from .repository import Repositories, Repository
from .routes import commit_of, page_not_found, split_id, to_new_name
from .settings import XET_TOKEN, Addresses, Settings
from .signing import Signer

ACTIONS: Final = frozenset({"revision", "tree", "paths-info", "auth-check", "xet-read-token"})


@dataclass(frozen=True)
class _Asked:
    request: Request
    repository: Repository
    rest: list[str]
    """What follows the action in the path: the revision first."""
    token: Token | None


@dataclass(frozen=True)
class ModelApi:
    repositories: Repositories
    signer: Signer
    addresses: Addresses
    settings: Settings

    def answer(self, request: Request, parts: list[str], token: Token | None) -> Response:
        """For the parts of the path from the repository's id on."""
        id, tail = split_id(parts, ACTIONS, self.repositories)
        if moved := to_new_name(request, id, self.repositories):
            return moved
        repository = found(self.repositories.get(id), token)
        action, *rest = tail or ["revision"]
        answers: dict[str, Callable[[_Asked], Response]] = {
            "revision": self._model,
            "tree": self._tree,
            "paths-info": self._paths_info,
            "auth-check": self._auth_check,
            "xet-read-token": self._xet_read_token,
        }
        if action not in answers:
            raise page_not_found()
        return answers[action](_Asked(request, repository, rest, token))

    def _model(self, asked: _Asked) -> Response:
        commit = commit_of(asked.repository, *asked.rest[:1])
        return json_response(listings.model(asked.repository, commit, blobs=_flag(asked.request.query.get("blobs"))))

    def _tree(self, asked: _Asked) -> Response:
        query, commit = asked.request.query, commit_of(asked.repository, *asked.rest[:1])
        recursive, expand = _flag(query.get("recursive")), _flag(query.get("expand"))
        path, with_xet = "/".join(asked.rest[1:]), self.settings.xet
        entries = listings.tree(commit, path, recursive=recursive, expand=expand, with_xet=with_xet)
        size = self.settings.expanded_page_size if expand else self.settings.page_size
        shown, following = listings.page(entries, query.get("cursor"), min(size, int(query.get("limit", size))))
        url = self.addresses.hub + asked.request.quoted_path
        links = {"Link": listings.link_to_next(url, query, following)} if following else {}
        return json_response(shown, headers={"X-Repo-Commit": commit.sha, **links})

    def _paths_info(self, asked: _Asked) -> Response:
        commit = commit_of(asked.repository, *asked.rest[:1])
        paths, expand = _paths_of(asked.request)
        return json_response(listings.paths_info(commit, paths, expand=expand, with_xet=self.settings.xet))

    def _auth_check(self, asked: _Asked) -> Response:
        readable(asked.repository, asked.token)
        return Response(200, {"Content-Type": "text/plain; charset=utf-8"}, Text(b"OK"))

    def _xet_read_token(self, asked: _Asked) -> Response:
        """As a client needs it to ask the CDN for `/v2/reconstructions/…`, which is recorded and not found there."""
        readable(asked.repository, asked.token)
        commit_of(asked.repository, *asked.rest[:1])
        url, expires = self.addresses.cdn, int(self.signer.clock() + self.signer.lifetime_seconds)
        headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": XET_TOKEN, "X-Xet-Token-Expiration": str(expires)}
        return json_response({"casUrl": url, "accessToken": XET_TOKEN, "exp": expires}, headers=headers)


def _paths_of(request: Request) -> tuple[list[str], bool]:
    """From a form or from JSON, and whether more is to be told of each."""
    if request.headers.get("content-type", "").startswith("application/json"):
        given = json.loads(request.body)
        return given["paths"], bool(given.get("expand"))
    form = parse_qs(request.body.decode())
    return form.get("paths", []), _flag(form.get("expand", [""])[0])


def _flag(value: str | None) -> bool:
    return (value or "").lower() in ("true", "1")
