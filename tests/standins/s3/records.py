"""Every request that came, for tests to ask about; no secret and no token is kept."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from .messages import Request
from .signatures import key_id_of


@dataclass
class Record:
    """Made when a request was read; the status and the bytes are filled in as they are known."""

    origin: str
    method: str
    path: str
    target: str
    """With the query, of S3 alone: that of STS has a token."""
    operation: str | None
    """Of S3: `list`, `get`, `head` or `head-bucket`."""
    bucket: str | None
    key: str | None
    key_id: str | None
    """Of the access key that a request says it is signed with."""
    range: str | None
    if_match: str | None
    version: str | None
    pays: bool
    """It says that the requester pays."""
    status: int | None = None
    """None: nothing answered yet, or cut before the headers."""
    error: str | None = None
    """The code in the answer's XML."""
    bytes_sent: int = 0
    """Of the body."""
    done: bool = False


class Records:
    def __init__(self) -> None:
        self._all: list[Record] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Record]:
        with self._lock:
            return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, request: Request) -> Record:
        is_s3 = request.origin == "s3"
        record = Record(
            origin=request.origin,
            method=request.method,
            path=request.path,
            target=request.target if is_s3 else request.path,
            operation=request.operation,
            bucket=request.bucket if is_s3 else None,
            key=request.key if is_s3 else None,
            key_id=key_id_of(request.authorization) if is_s3 else None,
            range=request.range,
            if_match=request.headers.get("if-match"),
            version=request.query.get("versionId"),
            pays=request.headers.get("x-amz-request-payer") == "requester",
        )
        with self._lock:
            self._all.append(record)
        return record

    def matching(self, *, path: str = "*", **values: Any) -> list[Record]:
        """By a glob over the path or the key, and by values of other fields."""
        return [
            record
            for record in self
            if any(fnmatchcase(text, path) for text in (record.path, record.key or ""))
            and all(getattr(record, name) == value for name, value in values.items())
        ]

    def count(self, *, path: str = "*", **values: Any) -> int:
        return len(self.matching(path=path, **values))

    def clear(self) -> None:
        with self._lock:
            self._all.clear()

    def described(self) -> dict[str, Any]:
        records = list(self)
        counted = Counter(f"{record.origin} {record.method} {record.status}" for record in records)
        return {
            "requests": [asdict(record) for record in records],
            "counters": dict(counted),
            "bytes": sum(record.bytes_sent for record in records),
        }
