"""Ends a build whose base image lacks what the worker needs, or has it too old: the image's packages come first."""

import importlib.metadata
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


if __name__ == "__main__":
    sys.exit("\n".join(unmet()) or None)
