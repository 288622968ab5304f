"""Every request that came, for tests to ask about; no secret and no token is kept."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any, Generic, Self, TypeVar

from .messages import Request, Response
from .origins import KnownAs


@dataclass(kw_only=True)
class RequestRecord:
    """Made when a request was read; the status and the bytes are filled in as they are known.

    A stand-in extends it by fields of its own, and `of` and `name` by what they are.
    """

    origin: str
    method: str
    path: str
    target: str
    """With the query."""
    range: str | None
    status: int | None = None
    """None: nothing answered yet, or cut before the headers."""
    error: str | None = None
    """The code in the answer, of an error that has one."""
    bytes_sent: int = 0
    """Of the body."""
    done: bool = False

    @classmethod
    def of(cls, request: Request, known: KnownAs) -> Self:
        return cls(**cls.common(request))

    @staticmethod
    def common(request: Request) -> dict[str, Any]:
        """What is recorded of every request."""
        names = ("origin", "method", "path", "target", "range")
        return {name: getattr(request, name) for name in names}

    @property
    def name(self) -> str | None:
        """By which a glob finds it, beside its path."""
        return None

    def answered(self, response: Response) -> None:
        self.status, self.error = response.status, response.error


R_co = TypeVar("R_co", bound=RequestRecord, covariant=True)


class Records(Generic[R_co]):
    def __init__(self, kind: type[R_co]) -> None:
        self._kind = kind
        self._all: list[R_co] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[R_co]:
        with self._lock:
            return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def begin(self, request: Request, known: KnownAs) -> R_co:
        record = self._kind.of(request, known)
        with self._lock:
            self._all.append(record)
        return record

    def matching(self, *, path: str = "*", **values: Any) -> list[R_co]:
        """By a glob over the path or the further name, and by values of other fields."""
        return [
            record
            for record in self
            if any(fnmatchcase(text, path) for text in (record.path, record.name or ""))
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
