"""What goes wrong with S3 alone: its errors, and objects that are replaced while somebody reads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..faulty_http import Fault, Faults, Request, Response, Rule
from .addressing import address_of
from .errors import KNOWN, error_response

Replace = Callable[[str, str, Path | str | bytes], object]
"""Of a bucket, a key, by content."""


@dataclass(frozen=True)
class S3Fault(Fault):
    """Of the origins `s3`, `sts`, `pod-identity` and `metadata`; a path may be an object's key.

    Operations are those of S3: `list`, `get`, `head` or `head-bucket`.
    """

    body: str = ""
    code: str | None = None
    """One of S3's errors in place of the answer, in XML; the status is its own where none is given."""
    message: str | None = None
    """In that XML, in place of the usual sentence."""
    replace_after_bytes: int | None = None
    """Once so many bytes were sent to requests that match, together, their object is replaced: who has read them and
    asks again meets the new one. What is being sent stays of the old one."""
    replace_with: Path | str | bytes = b""

    def response(self) -> Response | None:
        if self.code is None:
            return super().response()
        status, message = KNOWN.get(self.code, (400, self.code))
        return error_response(self.status or status, self.code, self.message or message)


class S3Rule(Rule):
    def __init__(self, number: int, fault: S3Fault, replace: Replace) -> None:
        super().__init__(number, fault)
        self._after, self._content = fault.replace_after_bytes, fault.replace_with
        self._replace = replace
        self._num_bytes = 0

    def count_bytes(self, request: Request, num_bytes: int) -> None:
        with self._lock:
            before = self._num_bytes
            self._num_bytes += num_bytes
            if self._after is not None and before < max(self._after, 1) <= self._num_bytes:
                address = address_of(request)
                self._replace(address.bucket, address.key, self._content)

    def described(self) -> dict[str, Any]:
        """Without the content of a replacement, which may be bytes."""
        return {name: value for name, value in super().described().items() if name != "replace_with"}


def s3_faults(replace: Replace) -> Faults:
    def rule(number: int, fields: Mapping[str, Any]) -> Rule:
        return S3Rule(number, S3Fault(**fields), replace)

    return Faults(rule)
