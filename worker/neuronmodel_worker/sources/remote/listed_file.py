"""A file as a source on a network lists it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ListedFile:
    """What is known of a file without reading it. `sha256` is of its content, where the source lists one; `oid` is
    git's digest of a file that git keeps itself; `etag`, `version` and `modified` (ISO 8601) are of an object in a
    bucket."""

    name: str
    nbytes: int
    oid: str = ""
    sha256: str | None = None
    etag: str = ""
    version: str = ""
    modified: str = ""
