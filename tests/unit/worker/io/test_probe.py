"""What a node finds of a volume is looked for once a day, is kept there, and never in anybody's way."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from neuronmodel_api import names
from neuronmodel_worker.io import probe
from neuronmodel_worker.io.probe import VolumeProbe, kept_probe, this_node

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(probe, "KEPT_MAX_BYTES", 256 << 10)


def test_a_look_leaves_its_result_and_nothing_else(tmp_path: Path) -> None:
    found = kept_probe(tmp_path, "node-1", NOW)
    assert found is not None
    assert found.read_bytes_per_second
    assert found.write_bytes_per_second
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["probes", "probes/node-1.json"]
    assert VolumeProbe.model_validate_json((tmp_path / "probes/node-1.json").read_bytes()) == found


@pytest.mark.parametrize(
    ("later", "again"),
    [(timedelta(hours=23), False), (timedelta(hours=24), True), (timedelta(hours=-1), True)],
)
def test_a_node_looks_once_a_day(tmp_path: Path, later: timedelta, again: bool) -> None:
    kept_probe(tmp_path, "node-1", NOW)
    found = kept_probe(tmp_path, "node-1", NOW + later)
    assert found is not None
    assert (found.at != NOW) == again


def test_each_node_looks_for_itself(tmp_path: Path) -> None:
    kept_probe(tmp_path, "node-1", NOW)
    other = kept_probe(tmp_path, "node-2", NOW + timedelta(hours=1))
    assert other is not None
    assert other.at == NOW + timedelta(hours=1)


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"at": "soon"}', b"\xff" * 9000])
def test_what_cannot_be_read_is_measured_again(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes/node-1.json").write_bytes(kept)
    assert kept_probe(tmp_path, "node-1", NOW) is not None
    assert json.loads((tmp_path / "probes/node-1.json").read_bytes())["at"]


def test_errors_are_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert kept_probe(tmp_path / "absent", "node-1", NOW) is None
    assert "could not be probed" in caplog.text
    (tmp_path / "probes").write_text("a file in the way")
    assert kept_probe(tmp_path, "node-1", NOW) is not None
    assert "could not be kept" in caplog.text


def test_a_volume_with_hardly_any_room_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_free_bytes", lambda directory: 100 << 10)
    found = kept_probe(tmp_path, "node-1", NOW)
    assert found is not None
    assert (found.read_bytes_per_second, found.write_bytes_per_second) == (None, None)


def test_a_node_has_its_name_from_the_cluster_and_no_way_out_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(names.ENV_NODE_NAME, "ip-10-0-0-1.ec2")
    assert this_node() == "ip-10-0-0-1.ec2"
    monkeypatch.delenv(names.ENV_NODE_NAME)
    assert this_node() == this_node()
    kept_probe(tmp_path, "../../etc/passwd", NOW)
    assert [path.parent for path in tmp_path.rglob("*.json")] == [tmp_path / "probes"]
