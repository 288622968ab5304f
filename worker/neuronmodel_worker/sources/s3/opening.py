"""Opens a bucket: the one that a pod's configuration names, or the one that somebody has typed.

Somebody's keys, region and endpoint come from AWS_ variables, or from what the machine or pod is itself. Nothing of it
is printed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from neuronmodel_api.sources import S3Source
from neuronmodel_api.sources.s3 import DEFAULT_S3_REGION
from neuronmodel_worker.failures import BadInput, SourceChanged
from neuronmodel_worker.sources.remote.certificates import mounted_certificates
from neuronmodel_worker.sources.remote.endpoint import endpoint_of
from neuronmodel_worker.sources.remote.environment import given_certificates
from neuronmodel_worker.sources.remote.retries import RetryBudget
from neuronmodel_worker.sources.remote.traffic import Traffic
from neuronmodel_worker.sources.s3.address import ENDPOINT_VARIABLES, REGION_VARIABLES, S3Address, given
from neuronmodel_worker.sources.s3.bucket import S3Bucket, listed_files, open_bucket, revision_of
from neuronmodel_worker.sources.s3.client import S3Client, S3Server
from neuronmodel_worker.sources.s3.credentials import (
    Anonymous,
    Credentials,
    KeyFiles,
    PodIdentity,
    credentials_of,
    process_environment,
)


class BucketUnnamed(BadInput):
    """The configuration's URI is none."""


def open_configured(source: S3Source, kept: Path, watch: Callable[[Traffic], None] = lambda _: None) -> S3Bucket:
    """Opens it, with snapshots in `kept`, at the configured state where there is one, and at no other.

    Raises what `open_bucket` raises, BucketUnnamed, SourceUnreadable where the certificates cannot be read, and
    SourceChanged.
    """
    client = _client_of(source)
    bucket = open_bucket(client, kept, source.revision, watch, source.resolved_at)
    if source.revision not in (None, bucket.resolution.revision):
        if bucket.resolution.failure:
            raise bucket.resolution.failure
        raise SourceChanged(bucket.directory, "its objects are not those that were listed before")
    return bucket


def current_revision(source: S3Source, asks_with: Callable[[RetryBudget], None]) -> str:
    """Returns the state that the objects are in. Raises what is in `remote.refusals`, and BucketUnnamed."""
    client = _client_of(source)
    asks_with(client.budget)
    return revision_of(listed_files(client))


def _client_of(source: S3Source) -> S3Client:
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


def open_named(address: S3Address, environment: Mapping[str, str]) -> S3Bucket:
    """Opens what somebody has typed. Raises what `open_bucket` raises, and ValueError with a sentence."""
    endpoint = given(environment, ENDPOINT_VARIABLES)
    server = S3Server(
        region=given(environment, REGION_VARIABLES) or DEFAULT_S3_REGION,
        endpoint=endpoint_of(endpoint, "AWS_ENDPOINT_URL") if endpoint else "",
        requester_pays=environment.get("AWS_REQUEST_PAYER", "").lower() == "requester",
        certificates=lambda: given_certificates(environment),
    )
    return open_bucket(S3Client(server, address, credentials_of(environment)))
