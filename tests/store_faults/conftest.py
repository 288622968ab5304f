"""Processes to do the work, and models to do it for."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.generated import write_checkpoint
from tests.model_cases import decoder_tensors
from tests.store_faults.expected import KIND
from tests.store_faults.forking import ForkServer, fork_server
from tests.unit.worker.sharding import CONFIG

SERVERS = 2


@pytest.fixture(scope="session")
def servers() -> Iterator[list[ForkServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(fork_server()) for _ in range(SERVERS)]


@pytest.fixture(scope="session")
def server(servers: list[ForkServer]) -> ForkServer:
    return servers[0]


def write_source(directory: Path, kind: int = 1) -> Path:
    """A Llama of one layer; of another `kind` its weights are others."""
    config = {**CONFIG, "num_hidden_layers": 1}
    case = {"hf_config": config, "tensors": decoder_tensors(config), "dtype": "bfloat16", "values": kind}
    write_checkpoint(directory, case)
    (directory / KIND).write_text(str(kind))
    return directory


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))
