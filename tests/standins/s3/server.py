"""S3 and what gives keys for it in one process, for tests to begin, change and ask."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..faulty_http import FaultyServer, Records, tls_of
from .access import Access, Key, new_key
from .buckets import Bucket, Buckets, Content
from .control import S3Control
from .faults import s3_faults
from .identities import Metadata, PodIdentity, Sts
from .records import Record
from .s3_origin import S3Origin, Settings


class S3(FaultyServer):
    """`with S3() as s3:` serves until the end of the block; `s3.endpoint` is for clients.

    Ports of 0 are chosen by the system and kept while it is down. `advertise` is the base URL of S3 as clients reach
    it, where that is not the address it listens at; without a port it has that of S3. With `certificate` and `key` S3
    and STS speak https; Pod Identity, the metadata and the control API never do, as on a node.
    """

    requests: Records[Record]

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        sts_port: int = 0,
        pod_identity_port: int = 0,
        control_listen: str = "127.0.0.1",
        control_port: int = 0,
        advertise: str | None = None,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(Records(Record), s3_faults(self._replace), S3Control(self), control_listen, control_port)
        self.clock = clock
        self.buckets = Buckets()
        self.access = Access(clock)
        self.settings = Settings()
        self.sts = Sts(self.access)
        self.pod_identity = PodIdentity(self.access)
        self.metadata = Metadata(self.access)
        self._advertised = advertise
        tls = tls_of(certificate, key)
        self._s3 = self._serve(S3Origin(self.access, self.buckets, self.settings), listen, port, tls)
        self._sts = self._serve(self.sts, listen, sts_port, tls)
        self._pod_identity = self._serve(self.pod_identity, listen, pod_identity_port, None)
        self._metadata = self._serve(self.metadata, listen, 0, None)

    @property
    def endpoint(self) -> str:
        """Of S3, with path style."""
        return self._s3.url_as(self._advertised)

    @property
    def sts_endpoint(self) -> str:
        """For AWS_ENDPOINT_URL_STS."""
        return self._sts.url

    @property
    def pod_identity_uri(self) -> str:
        """For AWS_CONTAINER_CREDENTIALS_FULL_URI."""
        return f"{self._pod_identity.url}/v1/credentials"

    @property
    def metadata_endpoint(self) -> str:
        """For AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        return self._metadata.url

    def add_bucket(self, name: str, folder: Path | str | None = None, prefix: str = "", **settings: Any) -> Bucket:
        """With a folder's files below the prefix, which has a slash at its end; settings are fields of Bucket."""
        bucket = Bucket(name, clock=self.clock, **{"region": self.settings.region, **settings})
        if folder is not None:
            bucket.add_folder(folder, prefix)
        self.buckets.add(bucket)
        return bucket

    def bucket(self, name: str) -> Bucket:
        """KeyError where there is none."""
        bucket = self.buckets.get(name)
        if bucket is None:
            raise KeyError(f"there is no bucket {name!r}")
        return bucket

    def add_key(self, id: str | None = None, secret: str | None = None, *, principal: str = "") -> Key:
        """One that lasts."""
        return self.access.add(new_key(id, secret, principal))

    def add_temporary_key(self, principal: str = "somebody", *, lifetime_seconds: float = 3600.0) -> Key:
        """One with a session token, as STS gives it."""
        return self.access.issue(principal, lifetime_seconds)

    def revoke(self, key: Key | str) -> None:
        """It is unknown from now on."""
        self.access.revoke(key if isinstance(key, str) else key.id)

    def described(self) -> dict[str, object]:
        return {
            "endpoint": self.endpoint,
            "sts": self.sts_endpoint,
            "pod_identity": self.pod_identity_uri,
            "metadata": self.metadata_endpoint,
            **super().described(),
        }

    def _replace(self, bucket: str, key: str, content: Content) -> None:
        self.bucket(bucket).put(key, content)
