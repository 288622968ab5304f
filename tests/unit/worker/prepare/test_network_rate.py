"""The rate of a source on a network is measured by reading the beginning of its biggest file in parallel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from neuronmodel_worker.checkpoint import open_checkpoint
from neuronmodel_worker.prepare import auto_figures
from neuronmodel_worker.prepare.auto_figures import network_rate
from neuronmodel_worker.sources.remote.refusals import SourceUnreachable
from tests.standins.hub import Hub
from tests.unit.worker.engines.models import write_chat_model
from tests.unit.worker.sources.hubs import REPOSITORY, delivered, opened, wait_little


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    wait_little(monkeypatch)
    monkeypatch.setattr(auto_figures, "NETWORK_PIECE_BYTES", 4096)
    monkeypatch.setattr("neuronmodel_worker.sources.remote.remote_source.HEAD_BYTES", 64)
    write_chat_model(tmp_path)
    with Hub() as hub:
        hub.add_repository(REPOSITORY, tmp_path)
        yield hub


def test_a_part_of_the_biggest_file_is_read(hub: Hub, tmp_path: Path) -> None:
    repository = opened(hub)
    files = open_checkpoint(repository).files
    before = len(delivered(hub))
    assert network_rate(repository, files) > 0
    fetched = sum(record.bytes_sent for record in delivered(hub)[before:])
    assert 0 < fetched <= (tmp_path / "model.safetensors").stat().st_size // auto_figures.NETWORK_SHARE


def test_a_server_out_of_reach_has_no_rate(hub: Hub) -> None:
    repository = opened(hub)
    files = open_checkpoint(repository).files
    hub.down()
    with pytest.raises(SourceUnreachable):
        network_rate(repository, files)


def test_no_file_has_no_rate(hub: Hub) -> None:
    assert network_rate(opened(hub), ()) == 0
