"""Every module has its place in the layers of .importlinter, which `make lint` holds the imports to."""

from configparser import ConfigParser
from pathlib import Path
from typing import Final

import pytest

from tests.paths import API, KUBECTL_PLUGIN, OPERATOR, PROJECT, WORKER

ROOTS: Final = (API, OPERATOR, WORKER, KUBECTL_PLUGIN, PROJECT / "hack")


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


def packages() -> dict[str, Path]:
    """The folder of every package, by its dotted name."""
    found = ((root, file.parent) for root in ROOTS for file in sorted(root.rglob("__init__.py")))
    return {".".join(folder.relative_to(root.parent).parts): folder for root, folder in found}


@pytest.mark.parametrize("package", sorted(packages()))
def test_every_module_of_a_package_is_in_one_of_its_layers(package: str) -> None:
    folder = packages()[package]
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in folder.glob("*/__init__.py")}
    if modules:
        assert contracts().get(package) == modules


def test_no_contract_is_of_a_package_that_is_gone() -> None:
    assert set(contracts()) <= set(packages())
