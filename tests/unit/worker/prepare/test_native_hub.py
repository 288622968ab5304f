"""`sharding.weights: Native` from a network: the library gets a folder. Processes on stand-ins of the SDK."""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_api.report import Report, Result
from tests.standins.hub import Hub
from tests.standins.s3 import S3
from tests.unit.worker.neuron_places import NeuronPlace, neuron_place
from tests.unit.worker.sources.buckets import BUCKET, PREFIX, source_of, write_keys
from tests.unit.worker.sources.hubs import delivered
from tests.unit.worker.test_cli import ask, phases
from tests.unit.worker.workers import Place, returned

REPOSITORY = "team/small"
ON_LOAD = {"strategy": "ShardOnLoad"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NeuronPlace:
    return neuron_place(tmp_path, monkeypatch, weights="Native")


@pytest.fixture
def hub(place: NeuronPlace) -> Iterator[Hub]:
    with Hub() as hub:
        hub.add_repository(REPOSITORY, place.source)
        yield hub


@pytest.fixture
def of_hub(place: NeuronPlace, hub: Hub) -> NeuronPlace:
    settings = {"sourcePath": None, "hubSource": {"repository": REPOSITORY, "endpoint": hub.endpoint}}
    return replace(place, settings={**place.settings, **settings})


def pinned(place: NeuronPlace, hub: Hub, result: Result, **more: Any) -> dict[str, Any]:
    commit = hub.repository(REPOSITORY).main
    return {**returned(result.to_json()), "hubSource": {**place.settings["hubSource"], "commit": commit}, **more}


def answer(place: Place, config: dict[str, Any]) -> tuple[str, Report]:
    with place.started("serve", **config) as worker:
        worker.until_ready()
        return ask(worker), worker.status()


def rank_files(place: Place, result: Result) -> dict[str, bytes]:
    found = (place.artifacts / "shards" / str(result.shards_key) / "weights").iterdir()
    return {path.name: path.read_bytes() for path in found}


def fetched(report: Report) -> list[int | None]:
    return [phase.bytes for phase in report.phases if phase.name == "SourceFetched"]


def sent(hub: Hub) -> int:
    return sum(record.bytes_sent for record in delivered(hub))


def folders(place: Place) -> list[Path]:
    return list((place.root / "scratch/tier/folder").glob("*"))


def test_sealed_shards_are_those_of_a_folder_and_need_no_files(
    place: NeuronPlace, of_hub: NeuronPlace, hub: Hub
) -> None:
    report = of_hub.prepare()
    assert report.result
    assert report.result.sizing
    assert report.result.sizing.scratch_bytes == 16 << 30
    assert fetched(report) == [sum(path.stat().st_size for path in place.source.iterdir())]
    names = [name for name in phases(report) if name in ("Compiled", "SourceFetched", "Sharded", "Sealed")]
    assert names == ["Compiled", "SourceFetched", "Sharded", "Sealed"]
    assert not folders(of_hub)
    of_folder = replace(place, root=place.root / "of-folder")
    of_folder.root.mkdir()
    assert rank_files(of_hub, report.result) == rank_files(of_folder, of_folder.prepared())
    hub.requests.clear()
    _, started = answer(of_hub, pinned(of_hub, hub, report.result))
    assert started.tier == "Artifacts"
    assert not fetched(started)
    assert not list(hub.requests)


def test_a_start_that_shards_fetches_once_and_the_next_finds_it(
    place: NeuronPlace, of_hub: NeuronPlace, hub: Hub
) -> None:
    result = of_hub.prepared(**ON_LOAD)
    files = (place.source / "model.safetensors").stat().st_size
    assert result.sizing
    assert result.sizing.scratch_bytes == ceil((files + (16 << 30)) / 0.9)
    assert not folders(of_hub)
    config = pinned(of_hub, hub, result, **ON_LOAD)
    first, started = answer(of_hub, config)
    assert first
    assert fetched(started)[0]
    assert place.called("load_weights")[-1]["from_files"] is False
    hub.down()
    again, restarted = answer(of_hub, config)
    assert (again, fetched(restarted)) == (first, [None])
    local = place.prepared(**ON_LOAD)
    assert answer(place, {**returned(local.to_json()), **ON_LOAD})[0] == first


def test_a_worker_that_is_killed_while_it_fetches_leaves_nothing_that_counts(of_hub: NeuronPlace, hub: Hub) -> None:
    config = pinned(of_hub, hub, of_hub.prepared(**ON_LOAD), **ON_LOAD)
    rule = hub.faults.add(origin="cdn", stall_after_bytes=10_000)
    writing = of_hub.root / "scratch/tier/writing"
    with of_hub.started("serve", **config) as worker:
        worker.until(lambda: list(writing.glob("folder-*/*.part")))
        progress = worker.status().progress
        assert progress
        assert (progress.phase, progress.unit, bool(progress.total)) == ("SourceFetched", "Bytes", True)
        worker.process.kill()
        worker.process.communicate()
    assert not folders(of_hub)
    hub.faults.remove(rule.number)
    text, report = answer(of_hub, config)
    assert text
    assert fetched(report)[0]
    assert len(folders(of_hub)) == 1
    assert not any(writing.iterdir())


def test_without_room_nothing_is_compiled_or_fetched(of_hub: NeuronPlace, hub: Hub) -> None:
    ended = of_hub.ended("prepare", scratchLimitBytes=100_000)
    assert ended.code == exits.NO_SPACE
    assert ended.report.failure
    assert ended.report.failure.reason == "VolumeFull"
    message = ended.report.failure.message
    assert " bytes are needed there, and " in message
    assert " may be written, as a tenth is left free. Enlarge the volume or its sizeLimit" in message
    assert not of_hub.called("shard_weights")
    whole = (of_hub.source / "model.safetensors").stat().st_size
    assert sent(hub) < whole
    result = of_hub.prepared(**ON_LOAD)
    refused = of_hub.ended("serve", **pinned(of_hub, hub, result, scratchLimitBytes=100_000, **ON_LOAD))
    assert (refused.code, refused.report.failure and refused.report.failure.reason) == (exits.NO_SPACE, "VolumeFull")


def test_content_that_is_not_the_listed_one_is_never_sharded(of_hub: NeuronPlace, hub: Hub) -> None:
    hub.faults.add(origin="cdn", first_byte=0, corrupt=True, path="*")
    ended = of_hub.ended("prepare")
    assert ended.report.failure
    assert ended.report.failure.reason == "SourceChanged"
    assert "lists another content than it delivers" in ended.report.failure.message
    assert not (of_hub.artifacts / "shards").exists()
    assert not folders(of_hub)
    hub.faults.clear()
    assert of_hub.prepared().shards_key


def test_the_files_of_a_bucket_are_fetched_as_those_of_a_repository_are(place: NeuronPlace, tmp_path: Path) -> None:
    with S3() as s3:
        s3.add_bucket(BUCKET, place.source, PREFIX)
        source = source_of(s3, write_keys(s3.add_key(), tmp_path / "keys"))
        of_s3 = replace(place, settings={**place.settings, "sourcePath": None, "s3Source": source})
        result = of_s3.prepared(**ON_LOAD)
        assert result.source
        config = {
            **returned(result.to_json()),
            **ON_LOAD,
            "s3Source": {**source, "revision": result.source.revision},
        }
        first, started = answer(of_s3, config)
        assert first
        assert fetched(started)[0]
        assert place.called("load_weights")[-1]["from_files"] is False
        s3.down()
        again, restarted = answer(of_s3, config)
    assert (again, fetched(restarted)) == (first, [None])
    (folder,) = folders(place)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in place.source.iterdir()
    }
