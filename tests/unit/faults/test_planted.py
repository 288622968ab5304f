"""The plants of the campaign fit the operator as it is."""

import compileall
from pathlib import Path

import pytest

from tests.campaign.planted import PACKAGE, PLANTS, Plant, plant_in


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.described.partition(":")[0])
def test_a_plant_changes_what_the_operator_has_and_leaves_python(plant: Plant, tmp_path: Path) -> None:
    package = tmp_path / PACKAGE
    plant_in(package, plant)
    assert compileall.compile_dir(package, quiet=2)
