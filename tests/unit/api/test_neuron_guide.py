"""docs/neuron.md names reasons and files that there are."""

import re

import pytest

from neuronmodel_api.reasons import Reason
from tests.paths import PROJECT

GUIDE = PROJECT / "docs" / "neuron.md"


def test_the_reasons_that_it_explains_exist() -> None:
    _, _, section = GUIDE.read_text().partition("## When it does not work\n")
    rows = re.findall(r"^\|[^|]*\|([^|]*)\|[^|]*\|$", section.partition("\n## ")[0], re.MULTILINE)
    named = {word for cell in rows if "phase" not in cell for word in re.findall(r"`([A-Z]\w+)`", cell)}
    assert len(named) > 15
    assert named - set(Reason) <= {"OOMKilled"}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http|#)([^)#]+)", GUIDE.read_text()))))
def test_what_it_links_to_exists(target: str) -> None:
    assert (GUIDE.parent / target).exists()
