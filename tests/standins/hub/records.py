"""What is recorded of a request to the Hub or its CDN; no token is kept."""

from dataclasses import dataclass
from typing import Any, Self

from ..faulty_http import KnownAs, Records, Request, RequestRecord
from .settings import XET_TOKEN


@dataclass(kw_only=True)
class Record(RequestRecord):
    file: str | None
    """Its path in the repository."""
    authorized: bool
    """It had an Authorization header."""
    is_leak: bool
    """A user's token reached the CDN, which has no business with it."""

    @classmethod
    def of(cls, request: Request, known: KnownAs) -> Self:
        authorization = request.authorization
        return cls(
            **cls.common(request),
            file=known.name,
            authorized=authorization is not None,
            is_leak=request.origin == "cdn" and authorization not in (None, f"Bearer {XET_TOKEN}"),
        )

    @property
    def name(self) -> str | None:
        return self.file


class HubRecords(Records[Record]):
    def __init__(self) -> None:
        super().__init__(Record)

    @property
    def leaks(self) -> list[Record]:
        return [record for record in self if record.is_leak]

    def described(self) -> dict[str, Any]:
        return {**super().described(), "leaks": len(self.leaks)}
