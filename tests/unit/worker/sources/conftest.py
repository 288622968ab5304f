from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins.hub import Hub
from tests.unit.worker.sharding import small_source
from tests.unit.worker.sources.hubs import REPOSITORY, wait_little


@pytest.fixture(autouse=True)
def _waiting_little(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_little(monkeypatch)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_source(tmp_path / "source", files=2)


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, checkpoint)
        yield hub
