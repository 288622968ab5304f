from pathlib import Path

import pytest

from tests.unit.host.commands import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path)
