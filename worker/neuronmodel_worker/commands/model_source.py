"""Where `--model` says that a checkpoint is: a folder, a repository of the Hugging Face Hub, or a bucket of S3.

The token and the endpoint come from where people have them for that library: HF_TOKEN, the file that HF_TOKEN_PATH or
HF_HOME names, or ~/.cache/huggingface/token; HF_ENDPOINT. For a bucket, keys and region come from AWS_ variables, or
from what the machine or pod is itself. Nothing of it is printed.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuronmodel_api.config import DEFAULT_S3_REGION, PUBLIC_HUB
from neuronmodel_worker.commands.usage_errors import UsageInvalid
from neuronmodel_worker.sources import Folder, WeightSource

HUB: Final = "hf://"
S3: Final = "s3://"
OTHER_BUCKETS: Final = ("gs://", "az://", "abfs://")
MAX_TOKEN_BYTES: Final = 4096


def open_source(model: str, environment: Mapping[str, str] | None = None) -> WeightSource:
    """Returns the source that `--model` names. Raises UsageInvalid, and what opening it raises."""
    environment = dict(os.environ) if environment is None else environment
    if model.startswith(HUB):
        return _open_repository(model, environment)
    if model.startswith(S3):
        return _open_bucket(model, environment)
    if model.lower().startswith((*OTHER_BUCKETS, S3, HUB)):
        raise UsageInvalid(
            f"--model is {model!r}, which is read from nowhere. Name a folder, a repository as hf://ORGANISATION/"
            "NAME@REVISION, or a bucket of S3 as s3://BUCKET/PREFIX."
        )
    return Folder(Path(model))


def _open_repository(model: str, environment: Mapping[str, str]) -> WeightSource:
    """Imports what reads a network only here: a folder does without."""
    from neuronmodel_worker.sources.hub.address import HubAddress
    from neuronmodel_worker.sources.hub.client import HubServer
    from neuronmodel_worker.sources.hub.repository import open_repository
    from neuronmodel_worker.sources.remote.endpoint import endpoint_of

    try:
        address = HubAddress.parse(model)
        endpoint = endpoint_of(environment.get("HF_ENDPOINT") or PUBLIC_HUB, "HF_ENDPOINT")
    except ValueError as error:
        raise UsageInvalid(str(error)) from error
    server = HubServer(endpoint, lambda: token(environment), lambda: _read_certificates(environment))
    return open_repository(address, server)


def _open_bucket(model: str, environment: Mapping[str, str]) -> WeightSource:
    """Imports what reads a network only here: a folder does without."""
    from neuronmodel_worker.sources.remote.endpoint import endpoint_of
    from neuronmodel_worker.sources.s3.address import S3Address
    from neuronmodel_worker.sources.s3.bucket import open_bucket
    from neuronmodel_worker.sources.s3.client import S3Client, S3Server
    from neuronmodel_worker.sources.s3.credentials import credentials_of

    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    try:
        address = S3Address.parse(model)
        server = S3Server(
            region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or DEFAULT_S3_REGION,
            endpoint=endpoint_of(endpoint, "AWS_ENDPOINT_URL") if endpoint else "",
            requester_pays=environment.get("AWS_REQUEST_PAYER", "").lower() == "requester",
            certificates=lambda: _read_certificates(environment),
        )
        credentials = credentials_of(environment)
    except ValueError as error:
        raise UsageInvalid(str(error)) from error
    return open_bucket(S3Client(server, address, credentials))


def token(environment: Mapping[str, str]) -> str | None:
    """Returns the token of HF_TOKEN, or of the file where the Hub's own client keeps it. Raises UsageInvalid for a file
    that cannot be read."""
    found = environment.get("HF_TOKEN") or _read_token(_token_file(environment))
    return found.strip() or None if found else None


def _token_file(environment: Mapping[str, str]) -> Path:
    if given := environment.get("HF_TOKEN_PATH"):
        return _expanded(given)
    cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return _expanded(environment.get("HF_HOME") or f"{cache}/huggingface") / "token"


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user without a home, as in many containers
        return Path(path)


def _read_token(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_TOKEN_BYTES).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageInvalid(f"The token in {file} cannot be read: {error.strerror or error}.") from error


def _read_certificates(environment: Mapping[str, str]) -> str | None:
    """Returns the certificates of SSL_CERT_FILE or REQUESTS_CA_BUNDLE, which HTTP clients in Python take. Raises
    UsageInvalid."""
    from neuronmodel_worker.sources.remote.certificates import NoCertificates, read_certificates

    file = environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE")
    if not file:
        return None
    try:
        return read_certificates(Path(file))
    except (OSError, NoCertificates) as error:
        raise UsageInvalid(f"The certificates in {file} cannot be read: {error}.") from error
