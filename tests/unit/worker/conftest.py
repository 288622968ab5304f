from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.workers import Place, Worker

if TYPE_CHECKING:
    from openai import OpenAI


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = tmp_path / "source"
    source.mkdir()
    write_chat_model(source)
    return Place(tmp_path, source)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """One that serves, for tests that only ask."""
    root = tmp_path_factory.mktemp("served")
    source = root / "source"
    source.mkdir()
    write_chat_model(source)
    with Place(root, source).serving() as worker:
        yield worker


@pytest.fixture
def client(worker: Worker) -> "OpenAI":
    from openai import OpenAI  # takes a second, which the other tests need not wait

    return OpenAI(base_url=worker.url, api_key="none", max_retries=0)
