"""Who may read what: tokens and their users, and what is private, gated or disabled."""

from dataclasses import dataclass, field

from .refusals import Refused
from .repository import Repository


@dataclass(frozen=True)
class Token:
    user: str
    reads_private: bool = True
    """False: a fine-grained token without the scope to read private and gated repositories."""


@dataclass
class Access:
    tokens: dict[str, Token] = field(default_factory=dict)

    def token(self, authorization: str | None) -> Token | None:
        """None without any; a token that nobody has is refused everywhere, on public repositories as well."""
        if authorization is None:
            return None
        token = self._known(authorization)
        if token is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def user(self, authorization: str | None) -> str | None:
        """Whom a request counts for; None for all who have no valid token."""
        token = self._known(authorization or "")
        return token.user if token else None

    def _known(self, authorization: str) -> Token | None:
        scheme, _, value = authorization.partition(" ")
        return self.tokens.get(value.strip()) if scheme.lower() == "bearer" else None


def found(repository: Repository | None, token: Token | None) -> Repository:
    """For listings. A private repository is not told from a missing one."""
    if repository is None or (repository.private and not _is_granted(repository, token)):
        raise _not_found(token)
    if repository.disabled:
        raise Refused(403, "Access to this resource is disabled.")
    if repository.private:
        _check_scope(token)
    return repository


def readable(repository: Repository | None, token: Token | None) -> Repository:
    """For files. Who may list a gated repository may not read it yet."""
    repository = found(repository, token)
    if repository.gated:
        _check_gate(repository, token)
    return repository


def _check_gate(repository: Repository, token: Token | None) -> None:
    start = f"Access to model {repository.id} is restricted"
    if token is None:
        message = f"{start}. You must have access to it and be authenticated to access it. Please log in."
        raise Refused(401, message, "GatedRepo")
    if not _is_granted(repository, token):
        message = f"{start} and you are not in the authorized list. Visit the repository's page to ask for access."
        raise Refused(403, message, "GatedRepo")
    _check_scope(token)


def _check_scope(token: Token | None) -> None:
    if token and not token.reads_private:
        settings = "your fine-grained token settings"
        raise Refused(403, f"Please enable access to public gated repositories in {settings} to view this repository.")


def _is_granted(repository: Repository, token: Token | None) -> bool:
    owner = repository.id.partition("/")[0]
    return token is not None and token.user in {*repository.grants, owner}


def _not_found(token: Token | None) -> Refused:
    """With another status where a token could help."""
    if token:
        return Refused(404, "Repository not found", "RepoNotFound")
    return Refused(401, "Invalid username or password.", "RepoNotFound")
