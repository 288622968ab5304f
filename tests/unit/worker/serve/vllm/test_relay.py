"""What the plugin tells of a start reaches the worker's clock, in order and with its figures."""

from datetime import timedelta
from pathlib import Path

import pytest

from neuronmodel_api.report import DiskRates, Stage
from neuronmodel_worker.failures import ArtifactDamaged
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.serve.vllm.relay import RelayClock, RelayReader, RelayWriter


class Both:
    """The clock over there, and what the worker makes of it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.writer = RelayWriter(file)
        self.there = RelayClock(self.writer)
        self.here = StartClock(Stage.SERVE, FirstLine.now())
        self.reader = RelayReader(file, self.here)


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path / "relay.jsonl")


def test_phases_arrive_with_their_bytes_and_add_up(both: Both) -> None:
    both.reader.begin("ServerImported")
    both.there.begin("GraphLoaded")
    with both.there.phase("Read", 100) as phase:
        phase.found(30)
        phase.reach(100)
        phase.was_busy(0.25)
    both.there.begin("DeviceLoaded", unit="Steps")
    both.reader.read()
    both.reader.end()
    both.here.ready()
    report = both.here.snapshot()
    assert [p.name for p in report.phases] == ["ServerImported", "GraphLoaded", "Read", "DeviceLoaded"]
    assert [p.bytes for p in report.phases] == [None, None, 70, None]
    assert report.phases[2].busy_milliseconds == 250
    assert report.ready_at is not None
    assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ready_at - report.started_at


def test_progress_is_seen_while_a_phase_is_under_way(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuronmodel_worker.serve.vllm.relay.PROGRESS_SECONDS", 0.0)
    with both.there.phase("Sharded", 1000) as phase:
        phase.advance(400)
        both.reader.read()
        progress = both.here.snapshot().progress
    assert progress is not None
    assert (progress.phase, progress.done, progress.total, progress.unit) == ("Sharded", 400, 1000, "Bytes")


def test_a_phase_that_fails_is_still_reported(both: Both) -> None:
    def read() -> None:
        with both.there.phase("Read", 10) as phase:
            phase.reach(4)
            raise KeyError

    with pytest.raises(KeyError):
        read()
    both.reader.read()
    assert [(p.name, p.bytes) for p in both.here.snapshot().phases] == [("Read", 4)]


def test_tier_rates_and_notes_arrive(both: Both) -> None:
    both.there.served_from("Scratch")
    both.there.measured(DiskRates(read_bytes_per_second=5))
    both.there.note("TierDamaged", "A copy was damaged.")
    both.reader.read()
    report = both.here.snapshot()
    assert (report.tier, report.disk) == ("Scratch", DiskRates(read_bytes_per_second=5))
    assert [(note.reason, note.message) for note in report.notes] == [("TierDamaged", "A copy was damaged.")]


def test_a_failure_of_ours_keeps_its_reason_sentence_and_exit_code(both: Both) -> None:
    failure = ArtifactDamaged(Path("/artifacts/shards/x"), "a byte is another")
    both.writer.failed(failure)
    both.reader.read()
    found = both.reader.failure
    assert found is not None
    assert (found.reason, str(found), found.exit_code) == (failure.reason, str(failure), failure.exit_code)


def test_of_another_s_exception_the_text_arrives(both: Both) -> None:
    try:
        raise RuntimeError("nrt_load_collectives status=10")
    except RuntimeError as error:
        both.writer.failed(error)
    both.reader.read()
    assert both.reader.failure is None
    assert "RuntimeError: nrt_load_collectives status=10" in both.reader.error


def test_a_line_that_is_still_being_written_waits_for_its_end(both: Both) -> None:
    both.there.served_from("Scratch")
    whole = both.file.read_bytes()
    for size in range(len(whole)):
        both.file.write_bytes(whole[:size])
        both.reader.read()
        assert both.here.snapshot().tier is None
    both.file.write_bytes(whole)
    both.reader.read()
    assert both.here.snapshot().tier == "Scratch"


def test_nothing_is_reported_before_vllm_writes(tmp_path: Path) -> None:
    reader = RelayReader(tmp_path / "none", StartClock(Stage.SERVE, FirstLine.now()))
    reader.read()
    assert reader.begun == []
