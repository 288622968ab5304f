"""Which repository and revision a path means, and where one went that has another name now."""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from ..faulty_http import Request, Response, Text
from .refusals import Refused
from .repository import Commit, Repositories, Repository

_SHA: Final = re.compile("[0-9a-f]{40}")


def split_id(parts: list[str], actions: frozenset[str], repositories: Repositories) -> tuple[str, list[str]]:
    """The repository's id, of one part or two, and what follows it, which begins with one of these actions."""
    two = "/".join(parts[:2])
    has_one_part = len(parts) == 1 or (parts[1] in actions and two not in repositories)
    return (parts[0], parts[1:]) if has_one_part else (two, parts[2:])


def split_cached(parts: list[str]) -> tuple[str, str, str]:
    """Id, sha and path; the sha tells how many parts the id has."""
    at = 1 if len(parts) > 1 and _SHA.fullmatch(parts[1]) else 2
    return "/".join(parts[:at]), "".join(parts[at : at + 1]), "/".join(parts[at + 1 :])


def commit_of(repository: Repository, revision: str = "main") -> Commit:
    commit = repository.commit(revision)
    if commit is None:
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def to_new_name(request: Request, id: str, repositories: Repositories) -> Response | None:
    """For a repository that was renamed: on the same host, with the same query."""
    if id not in repositories.renamed:
        return None
    new, status = repositories.renamed[id]
    asked = urlsplit(request.target)
    path = asked.path.replace(f"/{quote(id)}", f"/{quote(new)}", 1)
    return redirect(status, f"{path}?{asked.query}" if asked.query else path)


def redirect(status: int, location: str, headers: Mapping[str, str] = {}) -> Response:
    text = f"Redirecting to {location}".encode()
    return Response(status, {"Content-Type": "text/plain; charset=utf-8", "Location": location, **headers}, Text(text))


def page_not_found() -> Refused:
    return Refused(404, "Sorry, we can't find the page you are looking for.")
