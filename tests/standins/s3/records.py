"""What is recorded of a request to S3 or to what gives keys for it; no secret and no token is kept."""

from dataclasses import dataclass
from typing import Self

from ..faulty_http import KnownAs, Request, RequestRecord
from .addressing import address_of
from .signatures import key_id_of


@dataclass(kw_only=True)
class Record(RequestRecord):
    """Its target has the query of S3 alone: that of STS has a token."""

    operation: str | None
    """Of S3: `list`, `get`, `head` or `head-bucket`."""
    bucket: str | None
    key: str | None
    key_id: str | None
    """Of the access key that a request says it is signed with."""
    if_match: str | None
    version: str | None
    pays: bool
    """It says that the requester pays."""

    @classmethod
    def of(cls, request: Request, known: KnownAs) -> Self:
        is_s3, common = request.origin == "s3", cls.common(request)
        return cls(
            **(common if is_s3 else {**common, "target": request.path}),
            operation=known.operation,
            bucket=address_of(request).bucket if is_s3 else None,
            key=known.name,
            key_id=key_id_of(request.authorization) if is_s3 else None,
            if_match=request.headers.get("if-match"),
            version=request.query.get("versionId"),
            pays=request.headers.get("x-amz-request-payer") == "requester",
        )

    @property
    def name(self) -> str | None:
        return self.key
