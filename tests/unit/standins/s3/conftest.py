"""S3 with one bucket of a few objects, and a key that may read it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.standins.s3 import S3, Bucket, Key

BUCKET = "models"
WEIGHTS = "llama/model-00001-of-00001.safetensors"
CONFIG = "llama/config.json"
NUM_BYTES = 300_000


class Clock:
    """The true time, from which tests move it: clients sign with the true one."""

    def __init__(self) -> None:
        self.moved_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.moved_seconds


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients would read them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "checkpoint")


@pytest.fixture
def s3(folder: Path, clock: Clock) -> Iterator[S3]:
    with S3(clock=clock) as s3:
        s3.add_bucket(BUCKET, folder, "llama/")
        yield s3


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return s3.bucket(BUCKET)


@pytest.fixture
def key(s3: S3) -> Key:
    return s3.add_key()


@pytest.fixture
def weights(folder: Path) -> bytes:
    return (folder / "model-00001-of-00001.safetensors").read_bytes()


def write_files(folder: Path, seed: int = 0) -> Path:
    (folder / "original").mkdir(parents=True)
    (folder / "model-00001-of-00001.safetensors").write_bytes(some_bytes(seed))
    (folder / "config.json").write_text('{"model_type": "llama"}\n')
    (folder / "original" / "params.json").write_text('{"dim": 4096}\n')
    return folder


def some_bytes(seed: int = 0, size: int = NUM_BYTES) -> bytes:
    return bytes((index * 7 + seed) % 251 for index in range(size))
