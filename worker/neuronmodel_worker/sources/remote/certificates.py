"""Certificates that are trusted in addition to the system's."""

import ssl
from pathlib import Path

from neuronmodel_worker.sources.remote.refusals import CertificatesBroken


class NoCertificates(Exception):
    """A file holds no certificates in PEM, or broken ones."""


def no_certificates() -> str | None:
    return None


def read_certificates(file: Path) -> str:
    """Returns the certificates of a file in PEM. Raises OSError for a file that cannot be read, and NoCertificates.

    What bundles have between the certificates may be in any encoding, and is read without what is not in ASCII.
    """
    text = file.read_text(encoding="ascii", errors="ignore")
    try:
        ssl.create_default_context().load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise NoCertificates(f"what is there is no certificate in PEM, or one of them is none ({error})") from error
    return text


def mounted_certificates(file: str | None) -> str | None:
    """Returns the certificates of a file that a pod mounts; one that is missing, as a start may not need it, is none.
    Raises CertificatesBroken."""
    if file is None:
        return None
    try:
        return read_certificates(Path(file))
    except FileNotFoundError:
        return None
    except NoCertificates as error:
        raise CertificatesBroken(str(error)) from error
    except OSError as error:
        raise CertificatesBroken(error.strerror or str(error)) from error
