"""Part of a file as `Range` asks for it (RFC 9110, section 14)."""

import re

from ..faulty_http import FilePart, Response
from .refusals import Refused
from .repository import RepositoryFile

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def part_of_file(file: RepositoryFile, asked: str | None) -> Response:
    """206 for one range, 416 for one beyond the end, 200 with all of it for anything else.

    Refused where the file on disk is not what it was when its commit was made.
    """
    if not file.is_unchanged():
        raise Refused(500, f"{file.location} was changed after its commit was made; add a revision of another folder")
    location, size = file.location, file.size
    match = _ONE_RANGE.fullmatch(asked.strip()) if asked else None
    if match is None or match.groups() == ("", ""):
        return Response(200, {"Accept-Ranges": "bytes"}, FilePart(location, 0, size))
    first, last = _bounds(match[1], match[2], size)
    if first >= size or last < first:
        return Response(416, {"Accept-Ranges": "bytes", "Content-Range": f"bytes */{size}"})
    headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{size}"}
    return Response(206, headers, FilePart(location, first, last - first + 1))


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
