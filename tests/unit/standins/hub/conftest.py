"""A Hub with one public repository of a few files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins.hub import Hub
from tests.unit.standins.hub.asking import ask

REPOSITORY = "org/name"
WEIGHTS = "model-00001-of-00001.safetensors"
NUM_BYTES = 300_000


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "checkpoint")


@pytest.fixture
def hub(folder: Path, clock: Clock) -> Iterator[Hub]:
    with Hub(clock=clock) as hub:
        hub.add_repository(REPOSITORY, folder)
        yield hub


@pytest.fixture
def weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


@pytest.fixture
def signed(hub: Hub) -> str:
    """URL of the weights at the CDN."""
    return signed_url(hub)


def signed_url(hub: Hub) -> str:
    location: str = ask(file_url(hub, WEIGHTS)).headers["Location"]
    return location


def file_url(hub: Hub, path: str, revision: str = "main") -> str:
    return f"{hub.endpoint}/{REPOSITORY}/resolve/{revision}/{path}"


def write_files(folder: Path, seed: int = 0) -> Path:
    (folder / "original").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(bytes((index * 7 + seed) % 251 for index in range(NUM_BYTES)))
    (folder / "config.json").write_text('{"model_type": "llama"}\n')
    (folder / "original" / "params.json").write_text('{"dim": 4096}\n')
    (folder / "README.md").write_text("About it.\n")
    return folder
