"""Copies on the scratch volume, through the real command: the second start reads them, and their errors are noted."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neuronmodel_api import exits
from neuronmodel_api.report import Report
from tests.unit.worker.test_cli import ask
from tests.unit.worker.workers import Place, Worker, returned
from tests.volumes import volume_in_memory


@contextmanager
def served(place: Place, **changes: Any) -> Iterator[Worker]:
    """Ready, with the tier on; ends in order."""
    with place.started("serve", scratchTier=True, **changes) as worker:
        worker.until_ready()
        yield worker
        worker.process.send_signal(signal.SIGTERM)
        assert worker.wait().code == 0


def copied(place: Place, kind: str = "shards") -> Path | None:
    return next((place.root / "scratch/tier" / kind).glob("*/"), None)


def identity(copy: Path) -> tuple[int, int]:
    """Of a directory, and of no other that gets its number when it has gone."""
    found = copy.stat()
    return found.st_ino, found.st_ctime_ns


def start(place: Place, until: Callable[[], Any] = lambda: True, **changes: Any) -> tuple[Report, str]:
    """One start to its end: its last report, and what it answered; it ends when `until()`."""
    with served(place, **changes) as worker:
        answer = ask(worker)
        worker.until(until)
        return worker.status(), answer


def reasons(report: Report) -> list[str]:
    return [note.reason for note in report.notes]


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x55]))


def rank_file(directory: Path, rank: int = 1) -> Path:
    return directory / f"weights/tp{rank}_sharded_checkpoint.safetensors"


def test_the_second_start_reads_the_copy_and_a_damaged_one_is_replaced(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    config = returned(result.to_json())
    first, answer = start(place, lambda: copied(place), **config)
    assert (first.tier, first.notes) == ("Artifacts", ())
    found = copied(place)
    assert found
    original = place.artifacts / "shards" / found.name
    names = [path.relative_to(original) for path in sorted(original.rglob("*")) if path.is_file()]
    assert names == [path.relative_to(found) for path in sorted(found.rglob("*")) if path.is_file()]
    assert all((original / name).read_bytes() == (found / name).read_bytes() for name in names)

    with served(place, **config) as worker:
        second = worker.status()
        assert ask(worker) == answer
        assert 'neuronmodel_start_tier{tier="Scratch"} 1.0' in worker.admin("/metrics").text
        assert second.disk is not None
        assert second.disk.read_bytes_per_second
    assert (second.tier, second.notes) == ("Scratch", ())

    os.truncate(rank_file(found), rank_file(found).stat().st_size - 1)
    damaged = identity(found)
    third, again = start(place, lambda: (new := copied(place)) and identity(new) != damaged, **config)
    assert (third.tier, reasons(third), again) == ("Artifacts", ["ScratchTierDamaged"], answer)
    assert "tp1_sharded_checkpoint.safetensors is" in third.notes[0].message
    assert start(place, **config)[0].tier == "Scratch"


def test_full_verification_finds_what_sizes_and_headers_do_not_tell(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    config = {**returned(result.to_json()), "verification": "Full"}
    first, answer = start(place, lambda: copied(place), **config)
    assert first.tier == "Artifacts"
    found = copied(place)
    assert found
    flip(rank_file(found), rank_file(found).stat().st_size - 5000)
    second, again = start(place, **config)
    assert (second.tier, reasons(second), again) == ("Artifacts", ["ScratchTierDamaged"], answer)

    original = rank_file(place.artifacts / "shards" / found.name)
    flip(original, original.stat().st_size - 5000)
    ended = place.run("serve", **config)
    assert ended.code == exits.ARTIFACT_DAMAGED
    assert ended.report.failure is not None
    assert ended.report.failure.reason == "ArtifactDamaged"
    assert str(original) in ended.report.failure.message
    assert ended.report.ready_at is None


def test_a_copy_of_another_set_under_the_key_is_stale(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    config = returned(result.to_json())
    start(place, lambda: copied(place), **config)
    os.truncate(rank_file(place.artifacts / "shards" / str(result.shards_key)), 5)
    place.prepare()  # builds it again: another manifest
    report, _ = start(place, **config)
    assert (report.tier, reasons(report)) == ("Artifacts", ["ScratchTierStale"])


def test_without_room_the_start_goes_on_and_says_so(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    config = returned(result.to_json())
    report, answer = start(place, scratchLimitBytes=100_000, **config)
    assert (report.tier, reasons(report)) == ("Artifacts", ["ScratchTierFull"])
    assert "Enlarge the volume" in report.notes[0].message
    with volume_in_memory(place.root / "small", 300_000) as small:
        report, again = start(place, scratchPath=str(small), **config)
    assert (report.tier, reasons(report), again) == ("Artifacts", ["ScratchTierFull"], answer)
    assert not copied(place)


def test_a_tier_that_cannot_be_written_is_noted(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    (place.root / "scratch").mkdir(exist_ok=True)
    (place.root / "scratch/tier").write_text("something else has this name")
    report, _ = start(place, **returned(result.to_json()))
    assert (report.tier, reasons(report)) == ("Artifacts", ["ScratchTierUnwritable"])


def test_two_workers_share_a_volume(place: Place) -> None:
    result = place.prepare().result
    assert result is not None
    config = returned(result.to_json())
    with served(place, **config) as one, served(place, **config) as other:
        one.until(lambda: copied(place))
        assert ask(one) == ask(other)
        assert not one.status().notes
        assert not other.status().notes
    report, _ = start(place, **config)
    assert (report.tier, report.notes) == ("Scratch", ())
    assert not any((place.root / "scratch/tier/writing").iterdir())


def test_a_source_is_copied_whole_and_read_from_the_copy(place: Place) -> None:
    result = place.prepare(strategy="ShardOnLoad").result
    assert result is not None
    config = {**returned(result.to_json()), "strategy": "ShardOnLoad"}
    first, answer = start(place, lambda: copied(place, "source"), **config)
    assert (first.tier, first.notes) == ("Source", ())
    found = copied(place, "source")
    assert found
    for file in place.source.glob("*.safetensors"):
        assert (found / file.name).read_bytes() == file.read_bytes()

    second, again = start(place, **config)
    assert (second.tier, second.notes, again) == ("Scratch", (), answer)

    file = next(found.glob("*.safetensors"))
    flip(file, file.stat().st_size - 9)
    os.utime(file, ns=(0, next(place.source.glob("*.safetensors")).stat().st_mtime_ns))
    third, again = start(place, verification="Full", **config)
    assert (third.tier, reasons(third), again) == ("Source", ["ScratchTierDamaged"], answer)
    assert "the content of the tensor" in third.notes[0].message


def test_a_copy_of_a_source_with_another_header_is_replaced(place: Place) -> None:
    place.prepare(strategy="ShardOnLoad")
    start(place, lambda: copied(place, "source"), strategy="ShardOnLoad")
    found = copied(place, "source")
    assert found
    flip(next(found.glob("*.safetensors")), 20)
    report, _ = start(place, strategy="ShardOnLoad")
    assert (report.tier, reasons(report)) == ("Source", ["ScratchTierDamaged"])


def test_the_copy_of_a_source_that_was_touched_is_not_used(place: Place) -> None:
    place.prepare(strategy="ShardOnLoad")
    start(place, lambda: copied(place, "source"), strategy="ShardOnLoad")
    os.utime(next(place.source.glob("*.safetensors")))
    report, _ = start(
        place, lambda: len(list((place.root / "scratch/tier/source").iterdir())) == 2, strategy="ShardOnLoad"
    )
    assert (report.tier, report.notes) == ("Source", ())


def test_a_worker_that_is_killed_leaves_no_half_of_a_copy(place: Place) -> None:
    """Killed when it was ready just now, with its copy on the way or there."""
    result = place.prepare().result
    assert result is not None
    config = returned(result.to_json())
    with place.started("serve", scratchTier=True, **config) as worker:
        worker.until(lambda: worker.status().tier)
        worker.process.kill()
        worker.process.communicate()
    report, _ = start(place, lambda: copied(place), **config)
    assert report.tier in ("Artifacts", "Scratch")
    assert not report.notes
    assert start(place, **config)[0].tier == "Scratch"
    assert not any((place.root / "scratch/tier/writing").iterdir())
