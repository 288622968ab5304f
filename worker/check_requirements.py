"""Ends a build whose base image lacks what the worker needs, or has it too old: the image's packages come first."""

import importlib.metadata
import ssl
import sys

from packaging.requirements import Requirement

EXTRAS = ("worker", "")


def unmet() -> list[str]:
    """A sentence for each requirement."""
    found = []
    for requirement in map(Requirement, importlib.metadata.requires("neuronmodel") or []):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in EXTRAS):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{requirement} is not there.")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, and the worker needs {requirement.specifier}.")
    return found


def without_authorities() -> list[str]:
    """A sentence for each client that has no authority to trust, and reaches no server by TLS."""
    from obstore.exceptions import BaseError
    from obstore.store import HTTPStore

    found = []
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath):
        found.append(f"Python finds no certificates of authorities in {paths.openssl_cafile}. Install ca-certificates.")
    try:
        HTTPStore("https://huggingface.co")  # asks nobody
    except BaseError as error:
        first = str(error).partition("\n")[0]
        found.append(f"obstore makes no client ({first}). Install ca-certificates.")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(unmet() or without_authorities()) or None)
