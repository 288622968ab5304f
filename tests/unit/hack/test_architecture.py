"""docs/architecture.md names every module and where its tests are."""

import re
from pathlib import Path

import pytest

from tests.paths import API, KUBECTL_PLUGIN, OPERATOR, PROJECT, WORKER

PAGE = (PROJECT / "docs" / "architecture.md").read_text()
PACKAGES = {"api": API, "operator": OPERATOR, "worker": WORKER, "kubectl": KUBECTL_PLUGIN}
UNIT = PROJECT / "tests" / "unit"


def modules(side: str) -> list[Path]:
    found = PACKAGES[side].rglob("*.py")
    return sorted(path for path in found if path.stem not in ("__init__", "__main__"))


@pytest.mark.parametrize("side", sorted(PACKAGES))
def test_every_module_is_named(side: str) -> None:
    words = set(re.findall(r"`([a-z0-9_]+)`", PAGE))
    assert [path.stem for path in modules(side) if path.stem not in words] == []


@pytest.mark.parametrize("side", ["operator", "worker"])
def test_every_room_has_its_tests_where_the_page_says(side: str) -> None:
    table = PAGE[PAGE.index(f"its tests, in `tests/unit/{side}`") :].partition("\n\n")[0]
    named = [word for row in table.splitlines()[2:] for word in re.findall(r"`([^`]+)`", row.split(" | ")[-1])]
    places = [PROJECT / word if word.startswith("tests/") else UNIT / side / word for word in named]
    assert named
    assert [str(place) for place in places if not (place.exists() or place.with_suffix(".py").exists())] == []


@pytest.mark.parametrize("side", sorted(PACKAGES))
def test_the_folders_of_unit_tests_are_those_of_the_packages(side: str) -> None:
    folders = {path.parent.relative_to(UNIT / side) for path in (UNIT / side).rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (PACKAGES[side] / folder).is_dir()] == []
