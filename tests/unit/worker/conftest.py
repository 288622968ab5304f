import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.workers import Place, Worker

if TYPE_CHECKING:
    from openai import OpenAI


Install = Callable[..., None]


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


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a distribution of that name and version on the path, with the files it brings; a module is a name alone."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, version: str, *modules: str) -> None:
        metadata = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        record = [f"{metadata.name}/METADATA,,"]
        for module in modules:
            monkeypatch.delitem(sys.modules, module.partition("/")[0], raising=False)
            file = tmp_path / (module if module.endswith(".py") else f"{module}/__init__.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            record.append(f"{file.relative_to(tmp_path)},,")
        (metadata / "RECORD").write_text("\n".join(record))

    return put
