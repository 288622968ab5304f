import pytest

from tests.unit.worker.conftest import Install


@pytest.fixture(autouse=True)
def _vllm_for_processors(install: Install) -> None:
    """As the metadata of an image's packages has it."""
    install("vllm", "0.29.0+cpu")
