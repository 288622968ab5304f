"""Every request that came, for tests to ask about; no token is kept."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from .messages import Request
from .settings import XET_TOKEN


@dataclass
class Record:
    """Made when a request was read; the status and the bytes are filled in as they are known."""

    origin: str
    method: str
    path: str
    target: str
    """With the query."""
    file: str | None
    """Its path in the repository."""
    authorized: bool
    """It had an Authorization header."""
    range: str | None
    is_leak: bool
    """A user's token reached the CDN, which has no business with it."""
    status: int | None = None
    """None: nothing answered yet, or cut before the headers."""
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

    def begin(self, request: Request, file: str | None) -> Record:
        authorization = request.authorization
        record = Record(
            origin=request.origin,
            method=request.method,
            path=request.path,
            target=request.target,
            file=file,
            authorized=authorization is not None,
            range=request.range,
            is_leak=request.origin == "cdn" and authorization not in (None, f"Bearer {XET_TOKEN}"),
        )
        with self._lock:
            self._all.append(record)
        return record

    def matching(self, *, path: str = "*", **values: Any) -> list[Record]:
        """By a glob over the path or the file, and by values of other fields."""
        return [
            record
            for record in self
            if any(fnmatchcase(text, path) for text in (record.path, record.file or ""))
            and all(getattr(record, name) == value for name, value in values.items())
        ]

    def count(self, *, path: str = "*", **values: Any) -> int:
        return len(self.matching(path=path, **values))

    @property
    def leaks(self) -> list[Record]:
        return [record for record in self if record.is_leak]

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
            "leaks": sum(record.is_leak for record in records),
        }
