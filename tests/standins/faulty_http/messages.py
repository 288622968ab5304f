"""A request as it was read, and an answer before it is sent."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    origin: str
    """The name of the origin that it came to."""
    method: str
    target: str
    """Path and query as they came, still quoted."""
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes = b""
    ignores_range: bool = False
    """A fault: the header is there, and may be signed, and is not looked at."""

    @property
    def quoted_path(self) -> str:
        return urlsplit(self.target).path

    @property
    def path(self) -> str:
        return unquote(self.quoted_path)

    @property
    def segments(self) -> list[str]:
        """The path's parts; one that contains a quoted slash stays one."""
        return [unquote(part) for part in self.quoted_path.strip("/").split("/")]

    @cached_property
    def parameters(self) -> list[tuple[str, str]]:
        """Of the query, in its order."""
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(self.parameters)

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
    """The code of an error that has one, for the record."""


class Refusal(Exception):
    """Raised in place of an answer, which it knows how to word."""

    def response(self) -> Response:
        raise NotImplementedError


def json_response(value: object, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(status, {"Content-Type": "application/json", **headers}, Text(json.dumps(value).encode()))


def text_response(text: str, status: int = 200, headers: Mapping[str, str] = {}) -> Response:
    return Response(status, {"Content-Type": "text/plain", **headers}, Text(text.encode()))
