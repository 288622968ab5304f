"""Which starts are slower than the model's own usually are, and what is said of them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from neuronmodel_api import names
from neuronmodel_api.reasons import Reason
from neuronmodel_api.report import MAX_NOTE, MAX_NOTES, Stage
from neuronmodel_api.status import CacheResult, Cause, Disk, Outcome, RecordedPhase, Start, StartNote
from neuronmodel_operator.status.slower import slower, with_note
from tests.builders import neuron_model
from tests.unit.operator.simulated import Cluster, Run, component

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
BASE = neuron_model("smol").on_cpu().with_artifacts_claim("store")


def a_start(name: str, disk: Disk | None = None, **seconds: float) -> Start:
    phases = tuple(
        RecordedPhase(stage=Stage.SERVE, name=phase, started_at=T0, milliseconds=int(took * 1000))
        for phase, took in seconds.items()
    )
    return Start(
        id=name,
        cause=Cause.POD_REPLACED,
        outcome=Outcome.READY,
        cache=CacheResult.HIT,
        started_at=T0,
        total_milliseconds=sum(phase.milliseconds for phase in phases),
        disk=disk,
        phases=phases,
    )


def usual(count: int, **seconds: float) -> list[Start]:
    return [a_start(f"usual-{number}", None, **seconds) for number in range(count)]


def test_the_phase_that_grew_most_is_named_with_what_the_disk_did() -> None:
    disk = Disk(read_bytes_per_second=400_000_000, probed_read_bytes_per_second=1_600_000_000)
    peers = [a_start(f"peer-{i}", Disk(read_bytes_per_second=1_500_000_000), Read=2, WarmedUp=1) for i in range(3)]
    found = slower(a_start("slow", disk, Read=8, WarmedUp=1.5), peers)
    assert found is not None
    assert found.phase.name == "Read"
    assert found.note().reason == Reason.SLOWER_THAN_USUAL
    assert found.note().message == (
        "This start took 9.5 s, 3.2 times the median of the last 4 of its kind (3.0 s). Read (Serve) grew most: 8.0 s, "
        "usually 2.0 s. Meanwhile the disk read 400 MB/s (usually 1.50 GB/s, its probe: 1.60 GB/s)."
    )


@pytest.mark.parametrize(("num_peers", "is_known"), [(0, False), (1, False), (2, True), (4, True)])
def test_fewer_than_three_starts_say_nothing_of_what_is_usual(num_peers: int, is_known: bool) -> None:
    assert (slower(a_start("slow", Read=10), usual(num_peers, Read=2)) is not None) is is_known


@pytest.mark.parametrize(("seconds", "is_slower"), [(2.9, False), (3.0, False), (3.1, True)])
def test_half_as_long_again_as_the_median_is_not_slower(seconds: float, is_slower: bool) -> None:
    assert (slower(a_start("now", Read=seconds), usual(4, Read=2)) is not None) is is_slower


@pytest.mark.parametrize(
    "other",
    [
        {"cause": Cause.CONTAINER_RESTARTED},
        {"cache": CacheResult.MISS},
        {"tier": "Scratch"},
        {"strategy": "ShardOnLoad"},
        {"instance_type": "trn2.48xlarge"},
        {"outcome": Outcome.FAILED},
        {"outcome": Outcome.RUNNING, "total_milliseconds": None},
    ],
    ids=str,
)
def test_starts_of_another_kind_say_nothing_of_this_one(other: dict[str, Any]) -> None:
    peers = [each.model_copy(update=other) for each in usual(4, Read=2)]
    assert slower(a_start("slow", Read=10), peers) is None


def test_time_that_a_start_waited_for_somebody_does_not_count() -> None:
    assert slower(a_start("waited", Read=2, Blocked=3600), usual(4, Read=2)) is None
    found = slower(a_start("slow", Read=10, Blocked=3600), usual(4, Read=2))
    assert found is not None
    assert found.phase.name == "Read"


def test_attempts_of_a_phase_are_taken_together() -> None:
    twice = a_start("slow", Read=3, WarmedUp=1)
    twice = twice.model_copy(update={"phases": (*twice.phases, twice.phases[0]), "total_milliseconds": 7000})
    found = slower(twice, usual(3, Read=2, WarmedUp=1))
    assert found is not None
    assert (found.phase.milliseconds, found.usual_phase) == (6000, 2000)


def test_a_note_is_one_of_few_and_of_bounded_length() -> None:
    name = "P" * 120
    slow = a_start("slow", Disk(read_bytes_per_second=1, write_bytes_per_second=1), **{name: 10})
    slow = slow.model_copy(update={"notes": tuple(f"Note{i}: text" for i in range(MAX_NOTES))})
    noted = with_note(slow, [each.model_copy(update={"disk": slow.disk}) for each in usual(3, **{name: 1})])
    assert len(noted.notes) == MAX_NOTES
    assert len(StartNote.read(noted.notes[-1]).message) <= MAX_NOTE
    again = with_note(noted, usual(3, **{name: 1}))
    assert [StartNote.read(note).reason for note in again.notes].count(Reason.SLOWER_THAN_USUAL) == 1
    assert with_note(again, usual(3, **{name: 10})).notes == again.notes[:-1]


def test_a_start_is_compared_once_with_those_before_it_and_reported() -> None:
    cluster = Cluster.of(BASE.build(), ("models", "store"))
    cluster.run_until_ready()
    for seconds in (4, 4, 4, 40):
        run = Run(milliseconds=seconds * 1000)
        cluster.serve = lambda config, run=run: run  # type: ignore[misc]
        for pod in [pod for pod in cluster.pods.values() if component(pod) == names.COMPONENT_SERVE]:
            cluster.kill_pod(pod)
        cluster.run(5)
        cluster.run_until_ready()
    newest, *older = cluster.status.starts
    (note,) = newest.notes
    assert StartNote.read(note).reason == Reason.SLOWER_THAN_USUAL
    assert not any(start.notes for start in older)
    reported = [event for event in cluster.recorded_events if event.reason == Reason.SLOWER_THAN_USUAL]
    assert [event.note for event in reported] == [StartNote.read(note).message]
    written = len(cluster.log)
    cluster.run(30)
    assert cluster.log[written:] == []
