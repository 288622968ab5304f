"""The bucket that a pod's configuration names."""

import os
from collections.abc import Callable
from pathlib import Path

from neuronmodel_api.config import S3Source
from neuronmodel_worker.failures import BadInput
from neuronmodel_worker.sources.remote.certificates import mounted_certificates
from neuronmodel_worker.sources.remote.traffic import Traffic
from neuronmodel_worker.sources.s3.address import S3Address
from neuronmodel_worker.sources.s3.bucket import S3Bucket, open_bucket
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import Anonymous, Credentials, KeyFiles, PodIdentity


class BucketUnnamed(BadInput):
    """The configuration's URI is none."""


def open_configured_bucket(source: S3Source, kept: Path, watch: Callable[[Traffic], None] = lambda _: None) -> S3Bucket:
    """Opens it, with snapshots in `kept`. Raises what `open_bucket` raises, BucketUnnamed, and SourceUnreadable where
    the certificates cannot be read."""
    try:
        address = S3Address.parse(source.uri)
    except ValueError as error:
        raise BucketUnnamed(str(error)) from error
    server = S3Server(
        source.region, source.endpoint, source.requester_pays, lambda: mounted_certificates(source.ca_file)
    )
    client = S3Client(server, address, _credentials(source))
    return open_bucket(client, kept, source.revision, watch, source.resolved_at)


def _credentials(source: S3Source) -> Credentials:
    if source.anonymous:
        return Anonymous()
    if source.access_key_id_file and source.secret_access_key_file:
        session = Path(source.session_token_file) if source.session_token_file else None
        return KeyFiles(Path(source.access_key_id_file), Path(source.secret_access_key_file), session)
    return PodIdentity(os.environ)
