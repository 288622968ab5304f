"""Every module has its place in the layers of .importlinter, which `make lint` holds the imports to."""

from configparser import ConfigParser
from pathlib import Path
from typing import Final

import pytest

from tests.paths import PROJECT

ROOTS: Final = {
    "neuronmodel_api": "api",
    "neuronmodel_operator": "operator",
    "neuronmodel_worker": "worker",
    "hack": ".",
}


def contracts() -> dict[str, set[str]]:
    """Names of the modules in a package's layers, by the package; of exhaustive contracts alone."""
    found = ConfigParser()
    found.read(PROJECT / ".importlinter")
    layered = (found[name] for name in found.sections() if found[name].get("type") == "layers")
    return {
        section["containers"].strip(): {
            name.strip() for line in section["layers"].strip().splitlines() for name in line.split("|")
        }
        for section in layered
        if section.getboolean("exhaustive")
    }


def packages() -> list[str]:
    return sorted(
        ".".join(file.parent.relative_to(PROJECT / place).parts)
        for root, place in ROOTS.items()
        for file in (PROJECT / place / root).rglob("__init__.py")
    )


def folder(package: str) -> Path:
    return PROJECT / ROOTS[package.partition(".")[0]] / Path(*package.split("."))


@pytest.mark.parametrize("package", packages())
def test_every_module_of_a_package_is_in_one_of_its_layers(package: str) -> None:
    modules = {path.stem for path in folder(package).glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in folder(package).glob("*/__init__.py")}
    if modules:
        assert contracts().get(package) == modules


def test_no_contract_is_of_a_package_that_is_gone() -> None:
    assert set(contracts()) <= set(packages())
