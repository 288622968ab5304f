"""GetObject and HeadObject: one version of an object, or a range of it, under the conditions that a request has."""

import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import Final

from ..faulty_http import Request, Response
from .addressing import address_of
from .buckets import UNVERSIONED, Bucket, Grant, S3Object
from .errors import S3Refused, request_headers

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_VERSION = re.compile(r"null|[\w.-]{8,}")
DELETED: Final = {"x-amz-delete-marker": "true"}


@dataclass(frozen=True)
class Reading:
    bucket: Bucket
    rights: Grant

    def answer(self, request: Request) -> Response:
        """Raises S3Refused. Who may not list is not told what is missing."""
        if not self.rights.may_get:
            raise S3Refused("AccessDenied")
        found = self._found(request)
        _check_conditions(request, found)
        if not found.is_unchanged():
            message = f"{found.content!s} was changed after it became an object; put another file"
            raise S3Refused("InternalError", message, Key=found.key)
        return self._part(request, found) if not _is_known(request, found) else Response(304, self._headers(found))

    def _found(self, request: Request) -> S3Object:
        key, version = address_of(request).key, request.query.get("versionId")
        if version is None:
            return self._newest(key)
        if not _VERSION.fullmatch(version):
            raise S3Refused("InvalidArgument", "Invalid version id specified", ArgumentName="versionId")
        found = self.bucket.version(key, version)
        if found is None:
            raise self._missing(S3Refused("NoSuchVersion", Key=key, VersionId=version))
        if found.is_deleted:
            raise S3Refused("MethodNotAllowed", None, DELETED, Method=request.method, ResourceType="DeleteMarker")
        return found

    def _newest(self, key: str) -> S3Object:
        found = self.bucket.newest(key)
        if found is None:
            raise self._missing(S3Refused("NoSuchKey", Key=key))
        if found.is_deleted:
            raise self._missing(S3Refused("NoSuchKey", None, DELETED, Key=key))
        return found

    def _missing(self, refusal: S3Refused) -> S3Refused:
        return refusal if self.rights.may_list else S3Refused("AccessDenied")

    def _part(self, request: Request, found: S3Object) -> Response:
        """206 for one range, 416 for one beyond the end, 200 with all of it for what is no range or several."""
        headers, size = self._headers(found), found.size
        match = _ONE_RANGE.fullmatch(request.range.strip()) if request.range else None
        if match is None or match.groups() == ("", ""):
            return Response(200, headers, found.part(0, size))
        if match[1] and match[2] and int(match[2]) < int(match[1]):
            return Response(200, headers, found.part(0, size))
        first, last = _bounds(match[1], match[2], size)
        if first >= size:
            raise S3Refused("InvalidRange", RangeRequested=request.range, ActualObjectSize=size)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Response(206, headers, found.part(first, last - first + 1))

    def _headers(self, found: S3Object) -> dict[str, str]:
        headers = {
            **request_headers(),
            "Accept-Ranges": "bytes",
            "Content-Type": "binary/octet-stream",
            "Last-Modified": formatdate(found.modified, usegmt=True),
        }
        if found.etag is not None:
            headers["ETag"] = f'"{found.etag}"'
        if self.bucket.versioned or found.version != UNVERSIONED:
            headers["x-amz-version-id"] = found.version
        return headers | ({"x-amz-request-charged": "requester"} if self.bucket.requester_pays else {})


def _check_conditions(request: Request, found: S3Object) -> None:
    """If-Match that holds makes S3 not look at If-Unmodified-Since."""
    if_match, unmodified = request.headers.get("if-match"), _time(request, "if-unmodified-since")
    if if_match is not None:
        if not _names(if_match, found):
            raise S3Refused("PreconditionFailed", Condition="If-Match")
    elif unmodified is not None and found.modified > unmodified:
        raise S3Refused("PreconditionFailed", Condition="If-Unmodified-Since")


def _is_known(request: Request, found: S3Object) -> bool:
    if_none_match, since = request.headers.get("if-none-match"), _time(request, "if-modified-since")
    if if_none_match is not None:
        return _names(if_none_match, found)
    return since is not None and found.modified <= since


def _names(etags: str, found: S3Object) -> bool:
    named = [etag.strip().strip('"') for etag in etags.split(",")]
    return "*" in named or found.etag in named


def _time(request: Request, name: str) -> float | None:
    """None for what is no time, which S3 does not look at."""
    try:
        return parsedate_to_datetime(request.headers[name]).timestamp()
    except (KeyError, ValueError):
        return None


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)) if int(last) else size, size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
