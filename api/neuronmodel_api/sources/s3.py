"""Buckets of S3."""

from datetime import datetime
from typing import Final

from pydantic import Field

from neuronmodel_api import names
from neuronmodel_api.model import Tolerant
from neuronmodel_api.sources.network import NetworkSource, NetworkSourceConfig, SecretFiles

DEFAULT_S3_REGION: Final = "us-east-1"
PUBLIC_S3: Final = "https://s3.amazonaws.com"
"""Stands for AWS's own endpoints, of every region."""

ACCESS_KEY_ID_FILE: Final = f"{names.SECRETS_MOUNT}/source-access-key-id"
SECRET_ACCESS_KEY_FILE: Final = f"{names.SECRETS_MOUNT}/source-secret-access-key"
SESSION_TOKEN_FILE: Final = f"{names.SECRETS_MOUNT}/source-session-token"


class S3Source(NetworkSourceConfig):
    """A checkpoint in a bucket of S3, or of another server that speaks its API."""

    PINNED_BY = "revision"

    uri: str
    """`s3://bucket/prefix`."""
    region: str = DEFAULT_S3_REGION
    endpoint: str = ""
    """Empty for AWS."""
    revision: str | None = None
    """The state of the objects."""
    access_key_id_file: str | None = None
    """Files of keys are read at each use. None: the pod's own identity."""
    secret_access_key_file: str | None = None
    session_token_file: str | None = None
    anonymous: bool = False
    requester_pays: bool = False


class S3Credentials(Tolerant):
    """A Secret in the NeuronModel's namespace, and the names of its keys."""

    name: str
    access_key_id_key: str = Field("AWS_ACCESS_KEY_ID", alias="accessKeyIDKey")
    secret_access_key_key: str = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a key
    session_token_key: str | None = None
    """Absent: the credentials have no session token."""


class S3(NetworkSource):
    """A checkpoint in a bucket of S3, or of another server that speaks its API."""

    FIELD = "s3"
    CONFIG = S3Source
    CONFIG_FIELD = "s3_source"
    SETTINGS = "S3"
    PUBLIC_ENDPOINT = PUBLIC_S3
    RIGHTS = frozenset(
        # A bucket's name is the same in whatever region it is asked for.
        {"region", "credentials_secret_ref", "anonymous", "requester_pays", "ca_bundle"}
    )
    REVISION = "state"
    IS_OVERWRITTEN = True
    ASKS_THE_INSTANCE = True

    uri: str
    """`s3://bucket/prefix`."""
    region: str | None = None
    credentials_secret_ref: S3Credentials | None = None
    """Absent: the pod's own identity."""
    anonymous: bool = False
    requester_pays: bool = False

    @property
    def address(self) -> str:
        return self.uri

    @property
    def display(self) -> str:
        return f"{self.uri} at {self.endpoint}" if self.endpoint else self.uri

    @property
    def identity(self) -> list[str | None]:
        return [self.uri, self.endpoint]

    @property
    def moves(self) -> bool:
        return True

    @property
    def secret_files(self) -> SecretFiles | None:
        keys = self.credentials_secret_ref
        if keys is None:
            return None
        files = {
            ACCESS_KEY_ID_FILE: keys.access_key_id_key,
            SECRET_ACCESS_KEY_FILE: keys.secret_access_key_key,
        }
        if keys.session_token_key:
            files[SESSION_TOKEN_FILE] = keys.session_token_key
        return SecretFiles(keys.name, files)

    def served_at(self, revision: str) -> str:
        return f"{self.display} is served at state {revision}, and what is in the bucket"

    def config(self, revision: str | None, resolved_at: datetime | None) -> S3Source:
        keys = self.credentials_secret_ref
        return S3Source(
            uri=self.uri,
            region=self.region or DEFAULT_S3_REGION,
            endpoint=self.endpoint or "",
            revision=revision,
            resolved_at=resolved_at,
            access_key_id_file=ACCESS_KEY_ID_FILE if keys else None,
            secret_access_key_file=SECRET_ACCESS_KEY_FILE if keys else None,
            session_token_file=SESSION_TOKEN_FILE if keys and keys.session_token_key else None,
            anonymous=self.anonymous,
            requester_pays=self.requester_pays,
            ca_file=names.SOURCE_CA_FILE if self.ca_bundle else None,
        )
