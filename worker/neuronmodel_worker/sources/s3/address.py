"""The name of a checkpoint in a bucket."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Self

from neuronmodel_api.sources import S3
from neuronmodel_worker.sources.source_address import SourceAddress

SCHEME: Final = "s3://"
BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""As S3 allows names (docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html)."""
MAX_PREFIX_BYTES: Final = 900
"""A key has at most 1,024 bytes, and a file's name comes after the prefix."""
REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")
ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
HOW: Final = "Write it as s3://BUCKET/PREFIX"


@dataclass(frozen=True)
class S3Address(SourceAddress):
    """A bucket, and the prefix that all files of the checkpoint begin with, without a slash at its end."""

    SCHEME = SCHEME
    FORM = f"a bucket of S3 as {SCHEME}BUCKET/PREFIX"
    RIGHT = (
        "The pods need a right to read it: credentialsSecretRef: {name: …}, which names a Secret with "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of worker.serviceAccountName, or anonymous: true."
    )

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses `s3://bucket/prefix`. Raises ValueError with a sentence, which has no user and no password."""
        bucket, _, prefix = text.removeprefix(SCHEME).partition("/")
        if not text.startswith(SCHEME) or "@" in bucket:
            raise ValueError(f"A bucket is named by its name alone, without a user and a password. {HOW}.")
        if not BUCKET.fullmatch(bucket) or ".." in bucket:
            raise ValueError(f"{bucket!r} is no bucket's name: 3 to 63 small letters, digits, '-' and '.'. {HOW}.")
        prefix = prefix.rstrip("/")
        parts = prefix.split("/") if prefix else []
        if any(part in ("", ".", "..") for part in parts) or not prefix.isprintable():
            raise ValueError(f"{text!r} has an empty part, '.' or '..' in its prefix. {HOW}.")
        if len(prefix.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"The prefix has more than {MAX_PREFIX_BYTES} bytes. {HOW}.")
        return cls(bucket, prefix)

    def key(self, name: str) -> str:
        """The key of a file."""
        return f"{self.prefix}/{name}" if self.prefix else name

    @property
    def named_after(self) -> PurePosixPath:
        return PurePosixPath(self.prefix or self.bucket)

    def member(self, environment: Mapping[str, str]) -> dict[str, Any]:
        region, endpoint = given(environment, REGION_VARIABLES), given(environment, ENDPOINT_VARIABLES)
        found = {"uri": str(self), "region": region, "endpoint": endpoint}
        return {S3.member(): {name: value for name, value in found.items() if value}}

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def given(environment: Mapping[str, str], variables: Iterable[str]) -> str:
    """Returns the first of the variables that is set; empty where none is."""
    return next(filter(None, (environment.get(name) for name in variables)), "")
