"""What people's environments say to all that reads a network."""

from collections.abc import Mapping
from pathlib import Path

from neuronmodel_worker.failures import UsageInvalid
from neuronmodel_worker.sources.remote.certificates import NoCertificates, read_certificates


def given_certificates(environment: Mapping[str, str]) -> str | None:
    """Returns the certificates of SSL_CERT_FILE or REQUESTS_CA_BUNDLE, which HTTP clients in Python take. Raises
    UsageInvalid."""
    file = environment.get("SSL_CERT_FILE") or environment.get("REQUESTS_CA_BUNDLE")
    if not file:
        return None
    try:
        return read_certificates(Path(file))
    except (OSError, NoCertificates) as error:
        raise UsageInvalid(f"The certificates in {file} cannot be read: {error}.") from error
