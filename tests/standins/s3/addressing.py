"""Which bucket and key a request to S3 is for, and what it does with them."""

from dataclasses import dataclass
from typing import Final

from ..faulty_http import Request

_OPERATIONS: Final = {
    ("GET", False): "list",
    ("GET", True): "get",
    ("HEAD", True): "head",
    ("HEAD", False): "head-bucket",
}


@dataclass(frozen=True)
class Address:
    bucket: str
    key: str
    """All that follows the bucket's name and a slash."""
    operation: str | None
    """`list`, `get`, `head` or `head-bucket`."""


def address_of(request: Request) -> Address:
    """With path style."""
    bucket, key = request.path.lstrip("/").partition("/")[0], request.path[1:].partition("/")[2]
    operation = _OPERATIONS.get((request.method, bool(key))) if bucket else None
    return Address(bucket, key, operation)
