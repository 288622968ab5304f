"""A bucket of the tests with a small checkpoint, as a pod's configuration names it."""

from pathlib import Path
from typing import Any

from tests.standins.s3 import S3
from tests.standins.s3.access import Key
from tests.standins.s3.records import Record
from tests.waiting import until

BUCKET, PREFIX = "models", "team/small/"
URI = f"s3://{BUCKET}/{PREFIX}"
KEY_FILES = ("accessKeyIdFile", "secretAccessKeyFile", "sessionTokenFile")


def write_keys(key: Key, folder: Path) -> dict[str, str]:
    """Files as a mounted Secret has them, and the fields that name them."""
    folder.mkdir(exist_ok=True)
    given = (key.id, key.secret, key.token or "")
    for name, value in zip(KEY_FILES, given, strict=True):
        (folder / name).write_text(f"{value}\n")
    return {name: str(folder / name) for name in KEY_FILES}


def source_of(s3: S3, keys: dict[str, str]) -> dict[str, Any]:
    """What `s3Source` says of a bucket."""
    return {"uri": URI, "endpoint": s3.endpoint, **keys}


def ranges_of(s3: S3, name: str = "model.safetensors") -> list[Record]:
    """The requests for ranges of a file, each when it is done: what was sent is counted a moment later than it
    arrives."""

    def requests() -> list[Record]:
        return list(s3.requests.matching(operation="get", key=f"{PREFIX}{name}"))

    until(lambda: all(record.done for record in requests()), "ranges to be counted")
    return requests()
