"""S3 and what gives keys for it in one process, for tests to begin, change and ask."""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .access import Access, Key, new_key
from .buckets import Bucket, Buckets, Content
from .control import ControlOrigin
from .faults import Faults
from .identities import Metadata, PodIdentity, Sts
from .listener import Listener
from .records import Records
from .s3_origin import S3Origin, Settings


class S3:
    """`with S3() as s3:` serves until the end of the block; `s3.endpoint` is for clients.

    Ports of 0 are chosen by the system and kept while it is down. `advertise` is the base URL of S3 as clients reach
    it, where that is not the address it listens at; without a port it has that of S3. With `certificate` and `key` S3
    and STS speak https; Pod Identity, the metadata and the control API never do, as on a node.
    """

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1",
        port: int = 0,
        control_listen: str = "127.0.0.1",
        control_port: int = 0,
        advertise: str | None = None,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self.buckets = Buckets()
        self.access = Access(clock)
        self.faults = Faults(self._replace)
        self.requests = Records()
        self.settings = Settings()
        self.sts = Sts(self.access)
        self.pod_identity = PodIdentity(self.access)
        self.metadata = Metadata(self.access)
        self._advertised = advertise
        tls = _tls(certificate, key) if certificate else None
        shared = (self.requests, self.faults)
        s3 = S3Origin(self.access, self.buckets, self.settings)
        self._s3 = Listener(s3, listen, port, tls, *shared)
        self._sts = Listener(self.sts, listen, 0, tls, *shared)
        self._pod_identity = Listener(self.pod_identity, listen, 0, None, *shared)
        self._metadata = Listener(self.metadata, listen, 0, None, *shared)
        self._control = Listener(ControlOrigin(self), control_listen, control_port, None, Records(), Faults())

    def __enter__(self) -> Self:
        self._control.open()
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.faults.clear()
        self.down()
        self._control.close()

    @property
    def endpoint(self) -> str:
        """Of S3, with path style."""
        if self._advertised is None:
            return _url(self._s3)
        base = self._advertised.rstrip("/")
        return base if urlsplit(base).port else f"{base}:{self._s3.port}"

    @property
    def sts_endpoint(self) -> str:
        """For AWS_ENDPOINT_URL_STS."""
        return _url(self._sts)

    @property
    def pod_identity_uri(self) -> str:
        """For AWS_CONTAINER_CREDENTIALS_FULL_URI."""
        return f"{_url(self._pod_identity)}/v1/credentials"

    @property
    def metadata_endpoint(self) -> str:
        """For AWS_EC2_METADATA_SERVICE_ENDPOINT."""
        return _url(self._metadata)

    @property
    def control(self) -> str:
        return _url(self._control)

    @property
    def is_up(self) -> bool:
        return all(listener.is_open for listener in self._listeners)

    def up(self) -> None:
        """Listen again, at the same ports."""
        for listener in self._listeners:
            listener.open()

    def down(self) -> None:
        """Connections are refused, and those that are open end."""
        for listener in self._listeners:
            listener.close()

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
            "control": self.control,
            "up": self.is_up,
        }

    @property
    def _listeners(self) -> tuple[Listener, ...]:
        return (self._s3, self._sts, self._pod_identity, self._metadata)

    def _replace(self, bucket: str, key: str, content: Content) -> None:
        self.bucket(bucket).put(key, content)


def _tls(certificate: Path | str, key: Path | str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _url(listener: Listener) -> str:
    scheme = "https" if listener.tls else "http"
    return f"{scheme}://{_host(listener.address)}:{listener.port}"


def _host(address: str) -> str:
    """One that this machine reaches, if it listens on all."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{reached}]" if ":" in reached else reached
