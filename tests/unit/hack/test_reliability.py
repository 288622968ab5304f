"""docs/reliability.md names tests that there are, and the sources of what they try."""

import re

import pytest

from tests.paths import PROJECT

PAGE = (PROJECT / "docs" / "reliability.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in PAGE.partition("\n## What other operators fell over\n")[2].splitlines()
    if line.startswith("| ")
][2:]
SOURCE = re.compile(r"\[([\w.-]+/[\w.-]+)#(\d+)\]\(https://github\.com/([\w.-]+/[\w.-]+)/(?:issues|pull)/(\d+)\)")


def test_more_than_ten_faults_of_others_are_tried() -> None:
    assert len({source for _, source, _, _ in ROWS}) > 10


@pytest.mark.parametrize(("happened", "source", "tests", "here"), ROWS)
def test_a_fault_has_a_source_an_outcome_and_a_test_that_exists(
    happened: str, source: str, tests: str, here: str
) -> None:
    found = SOURCE.fullmatch(source)
    assert found
    assert found.group(1, 2) == found.group(3, 4)
    assert happened
    assert here
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert named
    for path, name in named:
        assert re.search(rf"^(?:async )?def {name}\(", (PROJECT / "tests" / path).read_text(), re.MULTILINE), name


def test_every_test_of_a_known_fault_is_in_the_table() -> None:
    written = {
        name
        for path in (PROJECT / "tests" / "cluster" / "operator" / "known_faults").glob("test_*.py")
        for name in re.findall(r"^async def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    assert written
    assert {name for name in written if f"::{name}`" not in PAGE} == set()
