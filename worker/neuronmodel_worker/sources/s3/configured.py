"""The bucket that a pod's configuration names."""

from collections.abc import Callable
from pathlib import Path

from neuronmodel_api.config import S3Source
from neuronmodel_worker.failures import BadInput, SourceChanged
from neuronmodel_worker.sources.remote.certificates import mounted_certificates
from neuronmodel_worker.sources.remote.traffic import Traffic
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.bucket import S3Bucket, open_bucket
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import (
    Anonymous,
    Credentials,
    KeyFiles,
    PodIdentity,
    process_environment,
)


class BucketUnnamed(BadInput):
    """The configuration's URI is none."""


def open_configured_bucket(source: S3Source, kept: Path, watch: Callable[[Traffic], None] = lambda _: None) -> S3Bucket:
    """Opens it, with snapshots in `kept`, at the configured state where there is one, and at no other.

    Raises what `open_bucket` raises, BucketUnnamed, SourceUnreadable where the certificates cannot be read, and
    SourceChanged.
    """
    client = bucket_client_of(source)
    bucket = open_bucket(client, kept, source.revision, watch, source.resolved_at)
    if source.revision not in (None, bucket.resolution.revision):
        if bucket.resolution.failure:
            raise bucket.resolution.failure
        raise SourceChanged(bucket.directory, "its objects are not those that were listed before")
    return bucket


def bucket_client_of(source: S3Source) -> S3Client:
    """Returns what asks about the bucket. Raises BucketUnnamed."""
    try:
        address = S3Address.parse(source.uri)
    except ValueError as error:
        raise BucketUnnamed(str(error)) from error
    server = S3Server(
        source.region, source.endpoint, source.requester_pays, lambda: mounted_certificates(source.ca_file)
    )
    return S3Client(server, address, _credentials(source))


def _credentials(source: S3Source) -> Credentials:
    if source.anonymous:
        return Anonymous()
    if source.access_key_id_file and source.secret_access_key_file:
        session = Path(source.session_token_file) if source.session_token_file else None
        return KeyFiles(Path(source.access_key_id_file), Path(source.secret_access_key_file), session)
    return PodIdentity(process_environment())
