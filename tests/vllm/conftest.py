"""A real vLLM, which `make vllm` installs and names; nothing here runs without one."""

import os
from pathlib import Path

import pytest

from tests.unit.worker.engines.models import write_chat_model
from tests.vllm.places import LENGTH, VllmPlace

FLAGS = {"tp_degree": 1, "torch_dtype": "float32", "seq_len": LENGTH, "batch_size": 4}
SETTINGS = {"engine": "CPU", "server": "VLLM", "neuronConfig": FLAGS}


def _given(name: str) -> Path:
    if not (given := os.environ.get(name)):
        raise pytest.UsageError(f"{name} is not set: run these tests by `make vllm`.")
    return Path(given)


@pytest.fixture(scope="session")
def environment() -> Path:
    return _given("NEURONMODEL_TEST_VLLM")


@pytest.fixture(scope="session")
def smollm(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> VllmPlace:
    """SmolLM2-135M on one rank."""
    root = tmp_path_factory.mktemp("smollm")
    return VllmPlace(root, _given("NEURONMODEL_TEST_MODEL"), SETTINGS, environment=environment)


@pytest.fixture(scope="session")
def tiny(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> VllmPlace:
    """A small random model on two ranks; its vocabulary of 300 is padded, and its head is one of its own."""
    root = tmp_path_factory.mktemp("tiny")
    source = root / "source"
    source.mkdir()
    write_chat_model(
        source, hidden_size=128, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2, head_dim=32
    )
    return VllmPlace(root, source, SETTINGS | {"neuronConfig": FLAGS | {"tp_degree": 2}}, environment=environment)
