"""`sharding.weights: Native`: the library's shards are checked and sealed as ours are, and the library loads them."""

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash
from safetensors.numpy import load_file, save_file

from neuronmodel_api.config import Engine, Strategy, WorkerConfig
from neuronmodel_api.report import Devices, Report, Result, Stage
from neuronmodel_worker.checkpoint import Checkpoint
from neuronmodel_worker.engines import DevicesInUse
from neuronmodel_worker.failures import (
    ArtifactDamaged,
    ArtifactsOutdated,
    ArtifactsVolumeFull,
    LayoutRefused,
    SourceChanged,
    SourceUnreadable,
    WorkerFailure,
)
from neuronmodel_worker.io import probe
from neuronmodel_worker.prepare import native_shards
from neuronmodel_worker.prepare.auto import Figures, choose
from neuronmodel_worker.prepare.auto_figures import capped_at_native_rates
from neuronmodel_worker.prepare.native_shards import ShardsUnexpected
from neuronmodel_worker.prepare.preparation import Preparation, open_source
from neuronmodel_worker.prepare.required_space import COMPILED_ALLOWANCE, SOURCE_BYTES_A_DIGEST_BYTE
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import ConfigurationInvalid, Run
from neuronmodel_worker.serve import loading
from neuronmodel_worker.serve.background import Background
from neuronmodel_worker.serve.loading import ModelLoader
from neuronmodel_worker.serve.prepared import PartialRanks, PreparedModel
from neuronmodel_worker.store import SHARDS, Store
from neuronmodel_worker.store.manifest import MANIFEST
from neuronmodel_worker.store.source_records import SOURCE_FILE, SourceDigests
from neuronmodel_worker.stream import ContentDigests, StreamProgress, rank_file_name
from tests.unit.worker.native_engine import NativeEngine
from tests.unit.worker.sharding import small_source
from tests.unit.worker.workers import Place, returned
from tests.volumes import volume_in_memory

FLAGS = {"tp_degree": 4, "cp_degree": 2}
"""Context parallelism has no layout of ours."""


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK_BYTES", 4096)
    monkeypatch.setattr(probe, "KEPT_MAX_BYTES", 4096)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    source = small_source(tmp_path / "source", files=2)
    return Place(tmp_path, source, {"weights": "Native", "engine": "Neuron", "neuronConfig": FLAGS})


def job_of(place: Place, stage: Stage, **changes: Any) -> Run:
    return Run(WorkerConfig.model_validate(place.config(**changes)), StartClock(stage, FirstLine.now()))


def prepare(place: Place, engine: NativeEngine, **changes: Any) -> tuple[Report, Result]:
    job = job_of(place, Stage.PREPARE, **changes)
    result = Preparation(job, open_source(job), engine).result()
    return job.clock.snapshot(), result


def start(place: Place, engine: NativeEngine, result: Result, **changes: Any) -> ModelLoader:
    config = {**returned(result.to_json()), **changes}
    return ModelLoader(job_of(place, Stage.SERVE, **config), Background(), pause=lambda seconds: None)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> NativeEngine:
    engine = NativeEngine()
    monkeypatch.setattr(loading, "open_engine", lambda config: engine)
    return engine


def shards(place: Place, key: str | None) -> Path:
    return place.artifacts / "shards" / (key or "")


def digests(directory: Path) -> dict[str, str]:
    return {path.name: xxhash.xxh3_128(path.read_bytes()).hexdigest() for path in (directory / "weights").iterdir()}


def is_sealed(path: Path) -> bool:
    return path.is_file() and path.name != MANIFEST


# Prepare


def test_the_librarys_files_are_sealed_with_their_digests(place: Place, engine: NativeEngine) -> None:
    report, result = prepare(place, engine)
    assert engine.called == ["import", "compile", "shard"]
    directory = shards(place, result.shards_key)
    sealed = Store(place.artifacts, read_only=True).find(SHARDS, str(result.shards_key))
    assert sealed
    files = sealed.files(under="weights")
    assert {name: file.digest for name, file in files.items()} == digests(directory)
    assert files.keys() == {rank_file_name(rank) for rank in range(4)}
    assert all(file.header for file in files.values())
    assert not Store(place.artifacts).problems(SHARDS, sealed.key, full=True)
    phases = {phase.name: phase.bytes for phase in report.phases}
    assert phases["Sharded"] == phases["Sealed"] == sum(file.nbytes for file in files.values())
    assert [name for name in phases if name in ("Compiled", "Sharded", "Sealed")] == ["Compiled", "Sharded", "Sealed"]
    assert (result.cache, result.shards_cache, result.model_type) == ("Miss", "Miss", "llama")
    assert result.missed == (
        "Compiled the model, for the volume is new; had NxD Inference shard the checkpoint, for the volume is new."
    )


def test_a_second_run_hits_and_a_touched_source_is_known_by_its_digests(place: Place, engine: NativeEngine) -> None:
    _, first = prepare(place, engine)
    _, second = prepare(place, engine)
    assert (second.cache, second.shards_key) == ("Hit", first.shards_key)
    for file in place.source.glob("*.safetensors"):
        os.utime(file, ns=(0, 10**18))
    report, third = prepare(place, engine)
    assert (third.cache, third.shards_key, third.source_content) == ("Hit", first.shards_key, first.source_content)
    assert third.source_fingerprint != first.source_fingerprint
    assert next(p.bytes for p in report.phases if p.name == "SourceIdentified") == third.source_bytes
    found = SourceDigests.model_validate_json((shards(place, first.shards_key) / SOURCE_FILE).read_bytes())
    assert found.tensors.keys() == open_source(job_of(place, Stage.PREPARE)).reads.keys()
    assert engine.called.count("shard") == 1


def test_another_release_of_the_library_shards_again(place: Place, engine: NativeEngine) -> None:
    _, first = prepare(place, engine)
    _, second = prepare(place, replace(engine, release="2"))
    assert second.shards_key != first.shards_key
    assert second.missed is not None
    assert "layout.library was library-1 and is library-2" in second.missed


def test_ours_and_the_librarys_shards_are_never_taken_for_each_other(place: Place, engine: NativeEngine) -> None:
    flags = {"tp_degree": 4}
    _, native_shards = prepare(place, engine, neuronConfig=flags)
    _, streamed = prepare(place, engine, neuronConfig=flags, weights="Streamed")
    assert streamed.shards_key != native_shards.shards_key
    assert engine.called.count("shard") == 1


def test_shard_on_load_keeps_nothing(place: Place, engine: NativeEngine) -> None:
    report, result = prepare(place, engine, strategy="ShardOnLoad")
    assert result.shards_key is None
    assert "shard" not in engine.called
    assert not (place.artifacts / "shards").exists()
    assert "Sharded" not in {phase.name for phase in report.phases}


def test_some_ranks_alone_are_prepared_and_never_served(place: Place, engine: NativeEngine) -> None:
    flags = {**FLAGS, "start_rank_id": 1, "local_ranks_size": 2}
    _, result = prepare(place, engine, neuronConfig=flags)
    assert digests(shards(place, result.shards_key)).keys() == {rank_file_name(1), rank_file_name(2)}
    with pytest.raises(PartialRanks, match="Ranks 1 to 2 alone were prepared"):
        start(place, engine, result, neuronConfig=flags).model()


def without(rank: int) -> Callable[[Path], object]:
    return lambda weights: (weights / rank_file_name(rank)).unlink()


def cut(rank: int) -> Callable[[Path], object]:
    def spoil(weights: Path) -> None:
        file = weights / rank_file_name(rank)
        os.truncate(file, file.stat().st_size - 1)

    return spoil


def one_more(name: str) -> Callable[[Path], object]:
    return lambda weights: (weights / name).write_bytes(b"{}")


def linked(rank: int) -> Callable[[Path], object]:
    def spoil(weights: Path) -> None:
        file = weights / rank_file_name(rank)
        file.rename(weights.parent.parent / "elsewhere")
        file.symlink_to(weights.parent.parent / "elsewhere")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without(2), "weights/tp2_sharded_checkpoint.safetensors is not there"),
        (cut(1), "tp1_sharded_checkpoint.safetensors is not whole"),
        (linked(0), "tp0_sharded_checkpoint.safetensors is no file"),
        (one_more("tp4_sharded_checkpoint.safetensors"), "weights/tp4_sharded_checkpoint.safetensors is there beside"),
        (one_more("../neuron_config.json"), "neuron_config.json is there beside the ranks' files"),
    ],
)
def test_files_that_are_not_the_ranks_are_reported_and_not_used(
    place: Place, engine: NativeEngine, spoil: Callable[[Path], object], sentence: str
) -> None:
    with pytest.raises(ShardsUnexpected, match=sentence):
        prepare(place, replace(engine, spoil=spoil))
    assert not (place.artifacts / "shards").exists()
    assert not [each for each in (place.artifacts / "staging").iterdir() if each.is_dir()]
    _, result = prepare(place, engine)
    assert result.shards_cache == "Miss"


def test_a_source_that_changes_while_it_is_sharded_is_noticed(place: Place, engine: NativeEngine) -> None:
    weights = next(place.source.glob("*.safetensors"))
    with pytest.raises(SourceChanged):
        prepare(place, replace(engine, spoil=lambda _: os.utime(weights, ns=(0, 5))))
    assert not (place.artifacts / "shards").exists()


def test_what_the_library_raises_ends_it_and_leaves_nothing(place: Place, engine: NativeEngine) -> None:
    def fail(weights: Path) -> None:
        raise LayoutRefused("no such model")

    with pytest.raises(LayoutRefused, match="no such model"):
        prepare(place, replace(engine, spoil=fail))
    assert not [each for each in (place.artifacts / "staging").iterdir() if each.is_dir()]


def test_a_source_that_cannot_be_read_ends_the_librarys_work(
    place: Place, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may be deep in its own code."""
    waiting = threading.Event()

    def unreadable(checkpoint: Checkpoint, progress: StreamProgress | None = None) -> ContentDigests:
        waiting.wait()
        raise SourceUnreadable(checkpoint.path, OSError(errno.EIO, "Input/output error"))

    def for_ever(weights: Path) -> None:
        waiting.set()
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(native_shards, "take_digests", unreadable)
    with pytest.raises(SourceUnreadable):
        prepare(place, replace(engine, spoil=for_ever))
    assert not [each for each in (place.artifacts / "staging").iterdir() if each.is_dir()]


def test_how_much_the_library_has_written_is_reported(
    place: Place, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_shards, "POLL_SECONDS", 0.001)
    job, described = job_of(place, Stage.PREPARE), set[tuple[int, int | None]]()

    def look(weights: Path) -> None:
        while not any(done for done, _ in described):
            progress = job.clock.snapshot().progress
            assert progress is not None
            assert progress.phase == "Sharded"
            described.add((progress.done, progress.total))

    plan = open_source(job)
    Preparation(job, plan, replace(engine, spoil=look)).result()
    done = max(described, key=lambda each: each[0])
    assert 0 < done[0] <= plan.output_bytes == done[1]


def test_a_damaged_set_is_found_and_sharded_again(place: Place, engine: NativeEngine) -> None:
    _, first = prepare(place, engine)
    file = shards(place, first.shards_key) / "weights" / rank_file_name(3)
    content = bytearray(file.read_bytes())
    content[-9] ^= 0x10
    file.write_bytes(content)
    _, quick = prepare(place, engine)
    assert quick.cache == "Hit"
    with pytest.raises(ArtifactDamaged, match="tp3_sharded_checkpoint"):
        start(place, engine, first, verification="Full").model()
    _, full = prepare(place, engine, verification="Full")
    assert (full.compiled_cache, full.shards_cache) == ("Hit", "Miss")
    assert "tp3_sharded_checkpoint.safetensors" in full.quarantined[0]
    begun = start(place, engine, full, verification="Full")
    begun.model()
    compared = {phase.name: phase.bytes for phase in begun.job.clock.snapshot().phases}["CompiledLoaded"]
    assert compared == sum(path.stat().st_size for path in shards(place, full.shards_key).rglob("*") if is_sealed(path))


def test_files_that_a_killed_run_left_are_not_taken_for_whole_ones(place: Place, engine: NativeEngine) -> None:
    """Their seals are there: it was killed between its last line and the set's name."""
    _, first = prepare(place, engine)
    key = str(first.shards_key)
    left = place.artifacts / "staging" / f"shards-{key}-0123456789ab"
    shards(place, key).rename(left)
    elsewhere = place.root / "kept"
    elsewhere.mkdir()
    for file in (left / "weights").iterdir():
        os.link(file, elsewhere / file.name)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}

    def other(weights: Path) -> None:
        for file in weights.iterdir():
            save_file({name: data + data.dtype.type(1) for name, data in load_file(file).items()}, file)

    _, second = prepare(place, replace(engine, spoil=other))
    assert second.shards_cache == "Miss"
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before
    assert not Store(place.artifacts).problems(SHARDS, key, full=True)


def test_room_is_requested_by_an_estimate_and_reported_as_one(place: Place, engine: NativeEngine) -> None:
    with volume_in_memory(place.root / "small", 1 << 20) as artifacts:
        with pytest.raises(ArtifactsVolumeFull, match=r"bytes are needed .* That is an estimate: NxD Infer") as full:
            prepare(place, engine, artifactsPath=str(artifacts))
        plan = open_source(job_of(place, Stage.PREPARE))
        digests_of_source = plan.source_bytes // SOURCE_BYTES_A_DIGEST_BYTE
        assert full.value.needed_bytes == COMPILED_ALLOWANCE[Engine.NEURON] + plan.output_bytes + digests_of_source
        assert not engine.called


# Auto


def test_auto_counts_with_what_the_library_was_seen_to_do() -> None:
    """Of 405B on disks that are faster than the library: what a start takes by AWS's guide, and 24 starts to pay."""
    fast = Figures(
        source_bytes=812 * 10**9,
        shard_bytes=871 * 10**9,
        load_bytes_per_second=20 * 10**9,
        read_bytes_per_second=20 * 10**9,
        write_bytes_per_second=10 * 10**9,
        starts_per_source=4,
    )
    few, many = (
        choose(capped_at_native_rates(fast)),
        choose(capped_at_native_rates(replace(fast, starts_per_source=30))),
    )
    assert (few.strategy, few.reason) == (Strategy.SHARD_ON_LOAD, "WeightsChangeOften")
    assert few.on_load_milliseconds == pytest.approx(187_400, rel=0.001)
    assert (many.strategy, many.reason) == (Strategy.SHARD_ON_COMPILE, "ShardsLoadFaster")
    sealed = choose(capped_at_native_rates(replace(fast, sealed=True)))
    assert sealed.strategy is Strategy.SHARD_ON_COMPILE
    assert sealed.on_compile_milliseconds == pytest.approx(107_800, rel=0.001)
    assert choose(capped_at_native_rates(replace(fast, starts_per_source=23))).strategy is Strategy.SHARD_ON_LOAD
    assert choose(capped_at_native_rates(replace(fast, starts_per_source=24))).strategy is Strategy.SHARD_ON_COMPILE


def test_auto_on_slow_disks_counts_with_the_disks() -> None:
    slow = Figures(10**9, 10**9, 10**8, 10**8, 10**8, 4)
    assert capped_at_native_rates(slow) == slow


def test_auto_tells_estimated_shards(place: Place, engine: NativeEngine) -> None:
    _, result = prepare(place, engine, strategy="Auto")
    plan = open_source(job_of(place, Stage.PREPARE))
    assert result.choice
    assert result.choice.shard_bytes == plan.output_bytes
    assert result.strategy in (Strategy.SHARD_ON_LOAD, Strategy.SHARD_ON_COMPILE)


# Serve


def test_a_start_lets_the_library_read_the_sealed_set(place: Place, engine: NativeEngine) -> None:
    _, result = prepare(place, engine)
    engine.called.clear()
    begun = start(place, engine, result)
    begun.model()
    assert engine.called == ["devices", "import", "open", "load"]
    assert engine.opened == [
        (place.artifacts / "compiled" / result.compiled_key, shards(place, result.shards_key)),
    ]
    assert engine.given == [None]
    report = begun.job.clock.snapshot()
    assert report.tier == "Artifacts"
    assert [phase.name for phase in report.phases] == [
        "SourceOpened",
        "EngineImported",
        "CompiledLoaded",
        "DeviceLoaded",
    ]


def test_a_start_lets_the_library_shard_the_source(place: Place, engine: NativeEngine) -> None:
    _, result = prepare(place, engine, strategy="ShardOnLoad")
    begun = start(place, engine, result, strategy="ShardOnLoad", scratchTier=True)
    begun.model()
    assert engine.opened == [(place.artifacts / "compiled" / result.compiled_key, None)]
    assert engine.given == [None]
    assert begun.job.clock.snapshot().tier == "Source"
    assert not (place.root / "scratch" / "tier").exists()


def test_a_start_refuses_what_was_prepared_by_another_release(place: Place, engine: NativeEngine) -> None:
    _, result = prepare(place, engine)
    engine.release = "2"
    with pytest.raises(ArtifactsOutdated):
        start(place, engine, result).model()


def test_nothing_is_sealed_behind(place: Place, engine: NativeEngine) -> None:
    _, result = prepare(place, engine)
    with pytest.raises(ConfigurationInvalid, match="leave out seal"):
        start(place, engine, result, seal="Behind").model()


def test_the_cpu_engine_does_not_shard_by_itself(place: Place) -> None:
    ended = place.run("prepare", engine="CPU")
    assert ended.report.failure
    assert ended.report.failure.reason == "LayoutRefused"
    assert ended.report.failure.final
    assert "Remove spec.sharding.weights" in ended.report.failure.message


# Devices


@pytest.fixture
def streamed(place: Place) -> Place:
    place.settings.update(weights="Streamed", neuronConfig={"tp_degree": 4})
    return place


def test_devices_are_looked_up_before_weights_are_read(streamed: Place, engine: NativeEngine) -> None:
    engine.found = Devices(count=16, cores=64, logical_core_config=2, driver="2.24", versions={"neuronx-cc": "2.21"})
    _, result = prepare(streamed, engine)
    begun = start(streamed, engine, result)
    begun.model()
    report = begun.job.clock.snapshot()
    assert report.devices == engine.found
    assert [phase.name for phase in report.phases] == [
        "SourceOpened", "DevicesFound", "EngineImported", "CompiledLoaded", "Read", "DeviceLoaded",
    ]  # fmt: skip


def test_without_devices_nothing_is_read(
    streamed: Place, engine: NativeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: NativeEngine) -> Devices:
        raise WorkerFailure("There is no Neuron device.")

    _, result = prepare(streamed, engine)
    monkeypatch.setattr(NativeEngine, "devices", nothing)
    begun = start(streamed, engine, result)
    with pytest.raises(WorkerFailure, match="no Neuron device"):
        begun.model()
    assert [phase.name for phase in begun.job.clock.snapshot().phases] == ["SourceOpened"]


def test_devices_in_use_are_waited_for_with_the_same_tensors(streamed: Place, engine: NativeEngine) -> None:
    _, result = prepare(streamed, engine)
    engine.busy, paused = 8, list[float]()
    begun = start(streamed, engine, result)
    begun.pause = paused.append
    begun.model()
    assert paused == [1, 2, 4, 8, 16, 30, 30, 30]
    assert len({id(ranks) for ranks in engine.given}) == 1
    assert engine.given[0] is not None
    names = [phase.name for phase in begun.job.clock.snapshot().phases]
    assert names[-3:] == ["Read", "DevicesAwaited", "DeviceLoaded"]


def test_a_long_wait_is_one_phase_however_often_it_was_tried(streamed: Place, engine: NativeEngine) -> None:
    _, result = prepare(streamed, engine)
    engine.busy = 300
    begun = start(streamed, engine, result)
    begun.model()
    report = begun.job.clock.snapshot()
    assert len(report.phases) < 10
    assert Report.model_validate(report.model_dump()) == report


def test_devices_that_stay_in_use_are_given_up_within_the_starts_time(streamed: Place, engine: NativeEngine) -> None:
    _, result = prepare(streamed, engine)
    now, paused = [100.0], list[float]()

    def pause(seconds: float) -> None:
        paused.append(seconds)
        now[0] += seconds

    engine.busy = 10**6
    begun = start(streamed, engine, result, startTimeoutSeconds=40)
    begun.pause, begun.monotonic = pause, lambda: now[0]
    with pytest.raises(DevicesInUse, match=r"Another process holds the cores\. They were waited for 40 s\."):
        begun.model()
    assert paused == [1, 2, 4, 8, 16, 9]
    assert begun.job.clock.snapshot().phases[-1].name == "DevicesAwaited"


# For servers of others


def test_rank_tensors_come_without_a_loaded_engine(streamed: Place, engine: NativeEngine) -> None:
    _, result = prepare(streamed, engine)
    engine.called.clear()
    job = job_of(streamed, Stage.SERVE, **returned(result.to_json()))
    prepared = PreparedModel(job, Background())
    prepared.open()
    sets = prepared.find(engine)
    ranks = prepared.ranks(sets)
    assert ranks is not None
    assert (len(ranks), sets.shards_directory) == (4, shards(streamed, result.shards_key))
    assert not engine.called
    on_disk = load_file(shards(streamed, result.shards_key) / "weights" / rank_file_name(2))
    assert ranks[2].keys() == on_disk.keys()
