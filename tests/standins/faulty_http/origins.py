"""What a stand-in says of requests: it is the only part that knows what a path means."""

from dataclasses import dataclass
from typing import Protocol

from .messages import Request, Response


@dataclass(frozen=True)
class KnownAs:
    """What faults and tests may call a request, beside its path."""

    name: str | None = None
    """What it is for: a file's path in a repository, or an object's key. Globs of paths are held against it too."""
    operation: str | None = None
    """What it does, where a method and a path do not say that plainly."""


class Origin(Protocol):
    @property
    def name(self) -> str:
        """What faults and records call it."""
        ...

    def answer(self, request: Request) -> Response:
        """May raise Refusal; any other exception is told with 500."""
        ...

    def known_as(self, request: Request) -> KnownAs:
        """Of every request, whether it will be refused or not."""
        ...
