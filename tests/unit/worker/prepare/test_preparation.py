"""prepare: what is a hit, what is rebuilt and why, what is adopted, and when it says no before the first byte."""

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from neuronmodel_api import exits
from neuronmodel_api.config import Strategy, WorkerConfig
from neuronmodel_api.report import MissCause, Report, Result, Stage
from neuronmodel_worker.engines import cpu
from neuronmodel_worker.failures import WorkerFailure
from neuronmodel_worker.io import probe
from neuronmodel_worker.io.disk import WrittenFile
from neuronmodel_worker.prepare.preparation import Preparation, open_source
from neuronmodel_worker.prepare.required_space import COMPILED_ALLOWANCE
from neuronmodel_worker.report.clock import FirstLine, StartClock
from neuronmodel_worker.run.context import Run
from neuronmodel_worker.store import LeaseTimings, collection
from neuronmodel_worker.store import store as store_module
from neuronmodel_worker.store.staging import Staging
from neuronmodel_worker.stream import filesink
from tests.unit.worker.workers import Ended, Place
from tests.waiting import PATIENCE_SECONDS

BUILDS = {"Compiled", "Sharded", "Sealed"}
GB = 10**9


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "BLOCK_BYTES", 64 << 10)
    monkeypatch.setattr(probe, "KEPT_MAX_BYTES", 128 << 10)


def prepared(place: Place, **changes: Any) -> tuple[Report, Result]:
    report = place.prepare(**changes)
    assert report.result is not None
    return report, report.result


def built(report: Report) -> set[str]:
    return {phase.name for phase in report.phases} & BUILDS


def failure(ended: Ended) -> tuple[str, str]:
    assert ended.report.failure is not None
    return ended.report.failure.reason, ended.report.failure.message


def weights_of(place: Place) -> Path:
    return place.source / "model.safetensors"


def touch(path: Path) -> None:
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


def change_a_weight(place: Place, name: str = "model.norm.weight") -> None:
    tensors = load_file(weights_of(place))
    tensors[name] = (tensors[name] + np.float32(1)).astype(tensors[name].dtype)
    save_file(tensors, weights_of(place), {"format": "pt"})


def shard_files(place: Place, key: str | None) -> dict[str, Path]:
    return {path.name: path for path in (place.artifacts / "shards" / (key or "")).glob("weights/*")}


def contents(place: Place, key: str | None) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in shard_files(place, key).items()}


def tensors(place: Place, key: str | None) -> dict[str, bytes]:
    found = {name: load_file(path) for name, path in shard_files(place, key).items()}
    return {f"{file} {name}": data.tobytes() for file, held in found.items() for name, data in held.items()}


def staged(place: Place) -> list[str]:
    return [path.name for path in (place.artifacts / "staging").iterdir() if path.is_dir()]


def sealed_ranks(place: Place) -> list[str]:
    return sorted(path.name for path in (place.artifacts / "staging").glob("*/weights/tp*"))


def fail_at_rank(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Of the rank files that are sealed one by one, before that one is noted."""
    seal, done = Staging.seal_rank, [0]

    def sealing(self: Staging, rank: int, written: WrittenFile) -> None:
        done[0] += 1
        if done[0] >= number:
            raise error
        seal(self, rank, written)

    monkeypatch.setattr(Staging, "seal_rank", sealing)


# What is a hit


def test_a_touched_source_builds_nothing_and_is_read_once(place: Place) -> None:
    _, first = prepared(place)
    touch(weights_of(place))
    report, second = prepared(place)
    assert (second.cache, second.compiled_cache, second.shards_cache) == ("Hit", "Hit", "Hit")
    assert second.source_fingerprint != first.source_fingerprint
    assert (second.source_content, second.shards_key) == (first.source_content, first.shards_key)
    assert not built(report)
    assert next(p.bytes for p in report.phases if p.name == "SourceIdentified") == second.source_bytes
    report, third = prepared(place)
    assert third == second
    assert next(p.bytes for p in report.phases if p.name == "SourceIdentified") is None


def test_a_copied_source_builds_nothing(place: Place, tmp_path: Path) -> None:
    _, first = prepared(place)
    shutil.copytree(place.source, tmp_path / "copy", copy_function=shutil.copyfile)
    _, second = prepared(place, sourcePath=str(tmp_path / "copy"), name="other", uid="uid-2")
    assert (second.cache, second.shards_key) == ("Hit", first.shards_key)


def test_a_changed_weight_rebuilds_only_the_shards_and_is_reported_by_name(place: Place) -> None:
    _, first = prepared(place)
    size = weights_of(place).stat().st_size
    change_a_weight(place)
    assert weights_of(place).stat().st_size == size
    report, second = prepared(place)
    assert (second.cache, second.compiled_cache, second.shards_cache) == ("Miss", "Hit", "Miss")
    assert second.compiled_key == first.compiled_key
    assert second.shards_key != first.shards_key
    assert second.source_content != first.source_content
    assert built(report) == {"Sharded", "Sealed"}
    assert second.missed == (
        "Sharded the checkpoint, for source: the content of the tensor model.norm.weight of model.safetensors differs."
    )
    assert second.missed_because == MissCause.SOURCE_CHANGED


def test_a_changed_flag_is_reported_by_name(place: Place) -> None:
    prepared(place)
    _, result = prepared(place, neuronConfig={"tp_degree": 1, "torch_dtype": "float32", "seq_len": 128})
    assert result.missed is not None
    assert "layout.tp_degree was 3 and is 1" in result.missed
    assert result.missed.startswith("Compiled the model, for ")
    assert result.missed_because == MissCause.INPUTS_CHANGED


def test_the_first_of_its_kind_is_reported(place: Place) -> None:
    _, result = prepared(place)
    assert result.missed == (
        "Compiled the model, for the volume is new; sharded the checkpoint, for the volume is new."
    )
    assert result.missed_because == MissCause.NEW_VOLUME


def test_a_second_model_with_the_same_keys_hits(place: Place) -> None:
    _, first = prepared(place)
    _, second = prepared(place, name="other", uid="uid-2")
    assert (second.cache, second.shards_key, second.missed_because) == ("Hit", first.shards_key, None)
    owners = {path.name for path in (place.artifacts / "refs").glob("*/*")}
    assert owners == {"team.small.uid-1", "team.other.uid-2"}


@pytest.mark.parametrize(("verification", "cache"), [("Quick", "Hit"), ("Full", "Miss")])
def test_full_verification_reads_what_is_found(place: Place, verification: str, cache: str) -> None:
    _, first = prepared(place)
    before = contents(place, first.shards_key)
    shard = shard_files(place, first.shards_key)["tp1_sharded_checkpoint.safetensors"]
    with shard.open("r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"\xff\xfe\xfd")
    _, second = prepared(place, verification=verification)
    assert second.cache == cache
    assert bool(second.quarantined) == (cache == "Miss")
    assert (contents(place, second.shards_key) == before) == (cache == "Miss")
    if second.quarantined:
        assert "tp1_sharded_checkpoint.safetensors" in second.quarantined[0]
        assert second.missed is not None
        assert "damaged" in second.missed
        assert second.quarantined_in_missed == 1
        assert second.missed_because == MissCause.DAMAGED


# Resuming


def test_a_run_that_ended_early_is_resumed_from_its_sealed_ranks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        fail_at_rank(patched, 2, WorkerFailure("stop"))
        ended = place.run("prepare")
    assert ended.code == exits.TRANSIENT
    kept = {path.name: path.stat().st_ino for path in (place.artifacts / "staging").glob("*/weights/tp*")}
    assert len(kept) == 1
    report, result = prepared(place)
    found = shard_files(place, result.shards_key)
    assert {name: found[name].stat().st_ino for name in kept} == kept
    assert len(found) == 3
    assert result.missed is not None
    assert "1 of 3 rank files were there already" in result.missed
    sharded = next(phase for phase in report.phases if phase.name == "Sharded")
    whole = sum(path.stat().st_size for path in found.values())
    assert whole // 2 < (sharded.bytes or 0) < whole * 2 // 3 + 1
    assert staged(place) == []
    again = contents(place, result.shards_key)
    shutil.rmtree(place.artifacts)
    _, fresh = prepared(place)
    assert contents(place, fresh.shards_key) == again


def test_after_resuming_the_source_is_still_known_by_content(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        fail_at_rank(patched, 3, WorkerFailure("stop"))
        place.run("prepare")
    prepared(place)
    touch(weights_of(place))
    assert prepared(place)[1].cache == "Hit"


def test_ranks_of_another_content_are_not_adopted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        fail_at_rank(patched, 3, WorkerFailure("stop"))
        place.run("prepare")
    before = weights_of(place).stat()
    change_a_weight(place)
    os.utime(weights_of(place), ns=(before.st_atime_ns, before.st_mtime_ns))
    _, result = prepared(place)
    assert result.missed is not None
    assert "already" not in result.missed
    found = tensors(place, result.shards_key)
    shutil.rmtree(place.artifacts)
    assert tensors(place, prepared(place)[1].shards_key) == found


def test_a_sealed_rank_that_was_damaged_is_rebuilt_with_full_verification(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        fail_at_rank(patched, 3, WorkerFailure("stop"))
        place.run("prepare")
    damaged = next((place.artifacts / "staging").glob("*/weights/tp*"))
    with damaged.open("r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"\xff\xfe\xfd")
    _, result = prepared(place, verification="Full")
    assert result.missed is not None
    assert "1 of 3 rank files were there already" in result.missed
    assert prepared(place, verification="Full")[1].cache == "Hit"


# Room


def only(free: int) -> Callable[[Path], int]:
    return lambda path: free


def shards_nbytes(place: Place, key: str | None) -> int:
    return sum(path.stat().st_size for path in shard_files(place, key).values())


def test_too_little_room_is_reported_before_the_first_byte(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _, result = prepared(place)
    needed = shards_nbytes(place, result.shards_key) + COMPILED_ALLOWANCE[cpu_engine()]
    shutil.rmtree(place.artifacts)
    monkeypatch.setattr(collection, "free_bytes", only(1000))
    ended = place.run("prepare")
    assert ended.code == exits.NO_SPACE
    reason, message = failure(ended)
    assert reason == "ArtifactsVolumeFull"
    reported = int(message.split(" bytes are needed")[0].replace(",", ""))
    assert needed <= reported < needed + (1 << 16)
    assert "1,000 are free" in message
    assert not any((place.artifacts / name).exists() for name in ("shards", "compiled", "refs", "sources"))
    assert staged(place) == []


def cpu_engine() -> Any:
    return next(engine for engine in COMPILED_ALLOWANCE if engine == "CPU")


def test_what_takes_the_room_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = prepared(place, name="other", uid="uid-2")
    change_a_weight(place)
    monkeypatch.setattr(collection, "free_bytes", only(1000))
    ended = place.run("prepare")
    _, message = failure(ended)
    assert (first.shards_key or "")[:8] in message
    assert "team.other" in message or "team/other" in message


def test_ranks_that_are_adopted_need_no_room_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        fail_at_rank(patched, 3, WorkerFailure("stop"))
        place.run("prepare")
    adopted = [path.stat().st_size for path in (place.artifacts / "staging").glob("*/weights/tp*")]
    assert len(adopted) == 2
    with monkeypatch.context() as patched:
        patched.setattr(collection, "free_bytes", only(1000))
        _, message = failure(place.run("prepare"))
    reported = int(message.split(" bytes are needed")[0].replace(",", ""))
    assert adopted[0] <= reported < 2 * adopted[0] + COMPILED_ALLOWANCE[cpu_engine()]
    assert "2 of 3 rank files were there already" in (prepared(place)[1].missed or "")


def test_what_another_one_writes_just_now_needs_no_room_twice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer takes the room for all of its files at once; the second one waits for it and finds the set."""
    written, waited = threading.Event(), threading.Event()
    seal, results = Staging.seal, []

    def seal_late(self: Staging, extra: Any = None) -> Any:
        if self.kind == "shards":
            monkeypatch.setattr(collection, "free_bytes", only(1000))
            written.set()
            waited.wait(PATIENCE_SECONDS)
        return seal(self, extra)

    monkeypatch.setattr(Staging, "seal", seal_late)
    monkeypatch.setattr(store_module, "LeaseTimings", lambda: LeaseTimings(pause=lambda seconds: waited.set()))
    config = WorkerConfig.model_validate(place.config())
    thread = threading.Thread(target=lambda: results.append(preparation(config)))
    thread.start()
    written.wait(PATIENCE_SECONDS)
    second = preparation(config.model_copy(update={"name": "other", "uid": "uid-2"}))
    thread.join()
    assert [each.shards_cache for each in (*results, second)] == ["Miss", "Hit"]


def preparation(config: WorkerConfig) -> Result:
    """Without signals and ports, so that two run side by side."""
    job = Run(config, StartClock(Stage.PREPARE, FirstLine.now()))
    return Preparation(job, open_source(job), cpu.CpuEngine()).result()


def test_ones_own_former_shards_make_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a pod runs on them."""
    _, first = prepared(place)
    change_a_weight(place)

    def free(path: Path) -> int:
        return 0 if (place.artifacts / "shards" / (first.shards_key or "")).exists() else 10 * GB

    monkeypatch.setattr(collection, "free_bytes", free)
    ended = place.run("prepare", keysInUse=[first.shards_key])
    assert failure(ended)[0] == "ArtifactsVolumeFull"
    assert shard_files(place, first.shards_key)
    _, second = prepared(place)
    assert second.shards_cache == "Miss"
    assert not shard_files(place, first.shards_key)


@pytest.mark.parametrize("number", [1, 4, 12])
def test_a_disk_that_fills_midway_leaves_nothing_and_recovers(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write, done, lock = os.pwrite, [0], threading.Lock()

    def full(descriptor: int, data: Any, position: int) -> int:
        with lock:
            done[0] += "weights" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if done[0] >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, position)

    with monkeypatch.context() as patched:
        patched.setattr(filesink.os, "pwrite", full)  # type: ignore[attr-defined]
        ended = place.run("prepare")
    assert (ended.code, failure(ended)[0]) == (exits.NO_SPACE, "ArtifactsVolumeFull")
    assert not any((place.artifacts / "staging").glob("*/**/.*"))
    assert all(name.startswith("tp") for name in sealed_ranks(place))
    assert not any((place.artifacts / "shards").glob("*"))
    _, result = prepared(place)
    assert result.shards_cache == "Miss"
    assert len(shard_files(place, result.shards_key)) == 3
    assert staged(place) == []


# Side by side


def test_phases_of_work_side_by_side_add_up(place: Place) -> None:
    report, _ = prepared(place)
    assert report.ended_at is not None
    assert timedelta(milliseconds=sum(p.milliseconds for p in report.phases)) == report.ended_at - report.started_at
    assert {"SourceIdentified", "VolumeProbed", "ArtifactsChecked", "EngineImported"} <= {p.name for p in report.phases}


def test_a_compiler_that_fails_stops_the_sharding_and_is_reported(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise WorkerFailure("The compiler refuses.")

    with monkeypatch.context() as patched:
        patched.setattr(cpu.CpuEngine, "compile", refuse)
        ended = place.run("prepare")
    assert failure(ended)[1] == "The compiler refuses."
    assert not any((place.artifacts / "compiled").glob("*"))
    assert [thread.name for thread in threading.enumerate() if thread.name == "concurrent"] == []
    assert prepared(place)[1].compiled_cache == "Miss"


def test_sharding_that_fails_stops_the_compiler_and_is_reported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that would go on for a minute."""

    def compile_for_long(*_: object) -> None:
        threading.Event().wait(PATIENCE_SECONDS)
        raise AssertionError("the compiler was not stopped")

    monkeypatch.setattr(cpu.CpuEngine, "compile", compile_for_long)
    fail_at_rank(monkeypatch, 1, WorkerFailure("The shards fail."))
    ended = place.run("prepare")
    assert failure(ended)[1] == "The shards fail."
    assert {"Compiled", "Sharded"} <= {phase.name for phase in ended.report.phases}
    assert staged(place) == []


# Auto


def history(**figures: Any) -> dict[str, Any]:
    return {"starts": 3, "sources": 1, **figures}


SLOW_SOURCE = history(shardedBytesPerSecond=1000, readBytesPerSecond=1_000_000)
FAST_SOURCE = history(shardedBytesPerSecond=1_000_000, readBytesPerSecond=1_000_000)


def test_auto_shards_once_what_loads_slowly(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    report, result = prepared(place, strategy="Auto", history=SLOW_SOURCE)
    assert result.choice is not None
    assert (result.strategy, result.choice.reason) == (Strategy.SHARD_ON_COMPILE, "ShardsLoadFaster")
    assert result.choice.load_bytes_per_second == 1000
    assert result.choice.starts_per_source == "7"
    assert result.choice.source_bytes == result.source_bytes
    assert result.choice.shard_bytes == shards_nbytes(place, result.shards_key)
    assert built(report) == BUILDS
    assert result.shards_cache == "Miss"


def test_auto_loads_a_source_that_is_fast(place: Place) -> None:
    report, result = prepared(place, strategy="Auto", history=FAST_SOURCE)
    assert result.choice is not None
    assert (result.strategy, result.choice.reason) == (Strategy.SHARD_ON_LOAD, "SourceLoadsFaster")
    assert (result.shards_key, result.shards_cache) == (None, None)
    assert built(report) == {"Compiled"}
    assert {path.parent.name for path in (place.artifacts / "refs").glob("*/*")} == {result.compiled_key}


def test_auto_probes_where_there_is_no_history(place: Place) -> None:
    place.artifacts.mkdir()
    _, result = prepared(place, strategy="Auto")
    assert result.choice is not None
    assert result.choice.load_bytes_per_second > 0
    assert result.choice.read_bytes_per_second > 0
    assert result.choice.write_bytes_per_second > 0
    assert result.choice.starts_per_source == "4"
    assert result.strategy in (Strategy.SHARD_ON_COMPILE, Strategy.SHARD_ON_LOAD)


def test_auto_counts_shards_that_are_there(place: Place) -> None:
    """Loaded once a content, shards would not pay for their building; these are built."""
    seldom = history(starts=1, sources=50, shardedBytesPerSecond=1000, readBytesPerSecond=2000)
    assert prepared(place, strategy="Auto", history=seldom)[1].strategy == Strategy.SHARD_ON_LOAD
    _, first = prepared(place, strategy="ShardOnCompile")
    report, result = prepared(place, strategy="Auto", history=seldom)
    assert (result.strategy, result.shards_key) == (Strategy.SHARD_ON_COMPILE, first.shards_key)
    assert not built(report)


def test_auto_loads_the_source_where_shards_have_no_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "free_bytes", only(COMPILED_ALLOWANCE[cpu_engine()] + 1000))
    _, result = prepared(place, strategy="Auto", history=SLOW_SOURCE)
    assert result.choice is not None
    assert (result.strategy, result.choice.reason) == (Strategy.SHARD_ON_LOAD, "TooLittleRoom")


def test_what_auto_chose_fits_the_last_report(place: Place) -> None:
    report, _ = prepared(place, strategy="Auto", history=SLOW_SOURCE)
    assert len(json.dumps(report.to_json(), separators=(",", ":")).encode()) < 4096


# Sealing behind


def test_what_is_sealed_behind_is_not_built_here(place: Place) -> None:
    report, result = prepared(place, seal="Behind")
    assert built(report) == {"Compiled"}
    assert result.shards_key is not None
    assert (result.shards_cache, result.compiled_cache) == (None, "Miss")
    referred = {path.parent.name for path in (place.artifacts / "refs").glob("*/*")}
    assert referred == {result.compiled_key, result.shards_key}
    _, before = prepared(place)
    assert before.shards_key == result.shards_key
    assert prepared(place, seal="Behind")[1].shards_cache == "Hit"


def test_what_is_sealed_behind_has_to_have_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "free_bytes", only(COMPILED_ALLOWANCE[cpu_engine()] + 1000))
    assert failure(place.run("prepare", seal="Behind"))[0] == "ArtifactsVolumeFull"


# Clearing up


@pytest.mark.parametrize("in_use", [False, True])
def test_what_nobody_needed_for_long_goes_unless_a_pod_uses_it(place: Place, in_use: bool) -> None:
    _, first = prepared(place)
    flags = {"tp_degree": 1, "torch_dtype": "float32", "seq_len": 128}
    prepared(place, neuronConfig=flags)
    assert shard_files(place, first.shards_key)
    for path in [*(place.artifacts / "refs").glob("*"), *place.artifacts.glob("*/*")]:
        if first.shards_key in path.parts:
            os.utime(path, (0, 0))
    prepared(place, neuronConfig=flags, keysInUse=[first.shards_key] if in_use else [])
    assert bool(shard_files(place, first.shards_key)) == in_use


def test_the_volumes_probe_is_listed_with_the_rates(place: Place) -> None:
    place.artifacts.mkdir()
    report, _ = prepared(place)
    assert report.disk is not None
    assert report.disk.write_bytes_per_second
    assert report.disk.probed_read_bytes_per_second
    assert report.disk.probed_write_bytes_per_second
    assert len(list((place.artifacts / "probes").iterdir())) == 1
