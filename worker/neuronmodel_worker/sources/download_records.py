"""The Hub's digests of files in a folder, as downloads by huggingface_hub record them.

    <folder>/.cache/huggingface/download/<name>.metadata     commit, ETag, time: what `hf download --local-dir` writes
    models--ORG--NAME/snapshots/<commit>/<name>              a link to ../../blobs/<ETag>, in the Hub's cache

The ETag is the sha256 of a large file. A record holds for the file that was downloaded: one that was written later, or
was put there in its place, has none. No file is read for it.
"""

import os
from collections.abc import Iterable
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Final

from neuronmodel_worker.sources.folder import UNFINISHED_BELOW
from neuronmodel_worker.sources.interface import DIGEST, SourceFile

METADATA: Final = ".metadata"
MAX_RECORD_BYTES: Final = 4096
SNAPSHOTS: Final = "snapshots"
BLOBS: Final = ("..", "..", "blobs")
EXACTNESS_SECONDS: Final = 1.0
"""How much later than its record a file's time may be, as huggingface_hub allows it."""
RECORDED_WITHIN_SECONDS: Final = 10.0
"""A record is written as soon as its file is whole. A later one proves nothing: huggingface_hub renews records of files
that a new revision has unchanged without reading them, also where another file was put in the place with its times."""


def recorded_digests(directory: Path, files: Iterable[SourceFile]) -> dict[str, str] | None:
    """Returns the digest of each file by its name; None where one has no record that holds."""
    digests: dict[str, str] = {}
    for file in files:
        digest = _of_metadata(directory, file) or _of_cache(directory, file)
        if digest is None:
            return None
        digests[file.path.name] = digest
    return digests


def _of_metadata(directory: Path, file: SourceFile) -> str | None:
    try:
        with (directory / UNFINISHED_BELOW / f"{file.path.name}{METADATA}").open("rb") as record:
            lines = record.read(MAX_RECORD_BYTES).decode().splitlines()
        _, digest, time = (line.strip() for line in lines[:3])
        recorded_at = float(time)
    except (OSError, ValueError):
        return None
    written_at = file.mtime_ns / 1e9
    if DIGEST.fullmatch(digest) is None or not isfinite(recorded_at):
        return None
    return digest if -EXACTNESS_SECONDS <= recorded_at - written_at <= RECORDED_WITHIN_SECONDS else None


def _of_cache(directory: Path, file: SourceFile) -> str | None:
    if directory.parent.name != SNAPSHOTS or DIGEST.fullmatch(directory.name) is None:
        return None
    link = directory / file.path.name
    try:
        *place, digest = PurePosixPath(os.fspath(link.readlink())).parts
        linked_at = link.lstat().st_mtime
    except (OSError, ValueError):
        return None
    if tuple(place) != BLOBS or DIGEST.fullmatch(digest) is None:
        return None
    return digest if file.mtime_ns / 1e9 <= linked_at + EXACTNESS_SECONDS else None
