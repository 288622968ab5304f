"""What the Hub answers, and what its refusals mean (huggingface_hub, `utils/_http.py`; huggingface.co/docs/hub)."""

import json
import re
from dataclasses import dataclass, field
from email.message import Message
from typing import Final, NoReturn

from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.io.untrusted_input import natural_number, shown
from neuronmodel_worker.sources.remote.redaction import without_secrets
from neuronmodel_worker.sources.remote.refusals import (
    EndpointInvalid,
    RepositoryNotFound,
    RevisionNotFound,
    SourceForbidden,
    SourceGated,
    TokenInvalid,
)

RATE_LIMIT: Final = re.compile(r"\br=(?P<left>[0-9]+)\s*;\s*t=(?P<seconds>[0-9]{1,18})")
SHOWN_CHARACTERS: Final = 120


@dataclass(frozen=True)
class Answer:
    url: str
    status: int
    headers: Message
    body: bytes
    token: str | None = field(default=None, repr=False)
    """The one that was sent, which servers repeat in their errors."""

    @property
    def beginning(self) -> str:
        """The first characters of the body, to be shown."""
        text = self.body[: 4 * SHOWN_CHARACTERS].decode(errors="replace")
        return shown(without_secrets(text, self.token)[:SHOWN_CHARACTERS])

    @property
    def wait_seconds(self) -> float | None:
        """How long the server asks to wait."""
        if (after := natural_number(self.headers.get("Retry-After"))) is not None:
            return float(after)
        limit = RATE_LIMIT.search(self.headers.get("RateLimit", ""))
        return float(limit["seconds"]) if limit and limit["left"] == "0" else None

    @property
    def message(self) -> str:
        """The server's own words, without a full stop."""
        return without_secrets(self.headers.get("X-Error-Message") or self._error(), self.token).rstrip(". ")

    def _error(self) -> str:
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return ""
        return str(found.get("error", "")) if isinstance(found, dict) else ""


@dataclass(frozen=True)
class HubRequest:
    """What a request was about. `name` is None for a repository's own facts."""

    host: str
    repository: str
    revision: str
    name: str | None
    has_token: bool


def raise_refusal(answer: Answer, asked: HubRequest) -> NoReturn:
    """Raises the failure that the answer, with a status of 400 or more, means; FileNotFoundError for a file that the
    commit does not have."""
    code = answer.headers.get("X-Error-Code", "")
    where = f"{asked.repository} at {asked.host}"
    if code == "GatedRepo":
        raise SourceGated(_gated(asked))
    if code == "RevisionNotFound":
        raise RevisionNotFound(
            f"{where} has no revision {shown(asked.revision)}. Name a branch, a tag or a commit that it has."
        )
    if code == "RepoNotFound":
        raise RepositoryNotFound(_not_found(where, asked))
    if asked.name is not None and answer.status == 404:
        raise FileNotFoundError(asked.name)
    raise _by_status(answer, asked, where)


def _by_status(answer: Answer, asked: HubRequest, where: str) -> BadInput:
    words = f" ({answer.message})" if answer.message else ""
    if answer.status == 401 and not asked.has_token:
        return TokenInvalid(f"{asked.host} wants a token for {asked.repository}{words}, and none is given. Give one.")
    if answer.status == 401:
        return TokenInvalid(
            f"{asked.host} does not accept the token{words}. It is wrong, or expired, or of another server: give a "
            "valid one, or none for a public repository."
        )
    if answer.status == 403:
        return SourceForbidden(
            f"{asked.host} refuses to give {asked.name or asked.repository} of {where}{words}. "
            + (
                "The token may lack the scope to read this repository: give one that has it."
                if asked.has_token
                else "Give a token of a user who may read it."
            )
        )
    if answer.status == 404 and answer.message:
        return RepositoryNotFound(_not_found(where, asked))
    return EndpointInvalid(
        f"{asked.host} answers {answer.status}{words} where a server that speaks the Hub's API would know the "
        f"repository: its answer begins {answer.beginning}. Name an endpoint that speaks it."
    )


def _gated(asked: HubRequest) -> str:
    ask = f"{asked.repository} is gated: ask for access at {asked.host}/{asked.repository}"
    if asked.has_token:
        return f"{ask}, as the user whose token is given; that user has not been granted it."
    return f"{ask}, and give a token of the user who was granted it."


def _not_found(where: str, asked: HubRequest) -> str:
    if asked.has_token:
        return (
            f"There is no {where} that the token's user may see. Correct the name, or give a token of a user who may "
            "read it."
        )
    return f"There is no public {where}. Correct the name; if it is private, give a token of a user who may read it."
