from pathlib import Path

import pytest

from tests.unit.worker.commands.commands import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path)
