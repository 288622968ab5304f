"""A request as it was read, and an answer before it is sent."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote


@dataclass(frozen=True)
class Request:
    origin: str
    """`s3`, `sts`, `pod-identity`, `metadata` or `control`."""
    method: str
    target: str
    """Path and query as they came, still quoted."""
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes = b""
    ignores_range: bool = False
    """A fault: the header is there, and signed, and not looked at."""

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    @property
    def bucket(self) -> str:
        return self.path.lstrip("/").partition("/")[0]

    @property
    def key(self) -> str:
        """All that follows the bucket's name and a slash."""
        return self.path[1:].partition("/")[2]

    @property
    def operation(self) -> str | None:
        """Of S3: `list`, `get`, `head` or `head-bucket`."""
        if self.origin != "s3" or not self.bucket:
            return None
        names = {("GET", False): "list", ("GET", True): "get", ("HEAD", True): "head", ("HEAD", False): "head-bucket"}
        return names.get((self.method, bool(self.key)))

    @cached_property
    def parameters(self) -> list[tuple[str, str]]:
        """Of the query, in its order."""
        return parse_qsl(self.target.partition("?")[2], keep_blank_values=True)

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(self.parameters)

    @property
    def form(self) -> dict[str, str]:
        """The query and a form in the body together, as STS takes its parameters from either."""
        return self.query | dict(parse_qsl(self.body.decode("latin-1"), keep_blank_values=True))

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")

    @property
    def range(self) -> str | None:
        return None if self.ignores_range else self.headers.get("range")


class Body(Protocol):
    @property
    def length(self) -> int: ...

    def read(self, offset: int, count: int) -> bytes: ...


@dataclass(frozen=True)
class Text:
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, offset: int, count: int) -> bytes:
        return self.data[offset : offset + count]


@dataclass(frozen=True)
class FilePart:
    """Bytes of a file on disk, read when they are sent."""

    location: Path
    start: int
    length: int

    def read(self, offset: int, count: int) -> bytes:
        wanted = max(0, min(count, self.length - offset))
        with self.location.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), wanted, self.start + offset)


@dataclass
class Response:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = Text(b"")
    error: str | None = None
    """The code in the body, for the record."""


def json_response(value: object, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(status, {"Content-Type": "application/json", **headers}, Text(json.dumps(value).encode()))


def text_response(text: str, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(status, {"Content-Type": "text/plain", **headers}, Text(text.encode()))
