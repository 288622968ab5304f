"""`sharding.weights: Native` with processes of engine Neuron on stand-ins: NxD Inference's own path, end to end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from neuronmodel_api import exits
from neuronmodel_api.report import Report, Result
from tests.unit.worker.neuron_places import FLAGS, NeuronPlace, neuron_place
from tests.unit.worker.test_cli import ask, phases
from tests.unit.worker.workers import Worker, returned

ON_LOAD = {"strategy": "ShardOnLoad"}


@dataclass(frozen=True)
class Prepared:
    """What a run made, what it reported, and what a start from it answers."""

    report: Report
    result: Result
    answer: str
    started: Report


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NeuronPlace]:
    """One volume for all tests: what they build is under keys of their own."""
    with pytest.MonkeyPatch.context() as patched:
        yield neuron_place(tmp_path_factory.mktemp("native"), patched, weights="Native")


@pytest.fixture(scope="module")
def native(place: NeuronPlace) -> Prepared:
    report = place.prepare()
    assert report.result is not None
    with served(place, report.result) as worker:
        return Prepared(report, report.result, ask(worker), worker.status())


@contextmanager
def served(place: NeuronPlace, result: Result, **changes: Any) -> Iterator[Worker]:
    with place.started("serve", **{**returned(result.to_json()), **changes}) as worker:
        worker.until_ready()
        yield worker


def answer(place: NeuronPlace, result: Result, **changes: Any) -> str:
    with served(place, result, **changes) as worker:
        return ask(worker)


def rank_files(place: NeuronPlace, result: Result) -> dict[str, bytes]:
    found = (place.artifacts / "shards" / str(result.shards_key) / "weights").iterdir()
    return {path.name: path.read_bytes() for path in found}


def test_the_library_shards_in_a_process_of_its_own_after_it_compiled(place: NeuronPlace, native: Prepared) -> None:
    compiled, sharded = place.called("shard_weights")[:2]
    assert (compiled["skip"], compiled["save"]) == (True, False)
    assert (sharded["skip"], sharded["save"]) == (False, True)
    assert compiled["pid"] != sharded["pid"]
    assert [name for name in phases(native.report) if name in ("Compiled", "Sharded", "Sealed")] == [
        "Compiled", "Sharded", "Sealed",
    ]  # fmt: skip
    files = rank_files(place, native.result)
    assert files.keys() == {f"tp{rank}_sharded_checkpoint.safetensors" for rank in range(3)}
    moved = {phase.name: phase.bytes for phase in native.report.phases}
    assert moved["Sharded"] == moved["Sealed"] == sum(map(len, files.values()))


def test_a_start_has_the_library_read_the_sealed_files(place: NeuronPlace, native: Prepared) -> None:
    started = native.started
    assert started.tier == "Artifacts"
    assert started.devices is not None
    assert (started.devices.count, started.devices.cores, started.devices.logical_core_config) == (1, 4, 2)
    assert started.devices.versions
    assert {"DevicesFound", "DeviceLoaded", "WarmedUp"} <= set(phases(started))
    assert not {"Read", "Sharded"} & set(phases(started))
    loaded = place.called("load_weights")[0]
    assert (loaded["from_files"], loaded["start"], loaded["count"]) == (True, 0, 3)


def test_a_start_that_shards_answers_alike_and_keeps_nothing(place: NeuronPlace, native: Prepared) -> None:
    result = place.prepared(**ON_LOAD)
    assert (result.shards_key, result.compiled_key, result.cache) == (None, native.result.compiled_key, "Hit")
    with served(place, result, **ON_LOAD) as worker:
        assert ask(worker) == native.answer != ""
        assert worker.status().tier == "Source"
    assert place.called("load_weights")[-1]["from_files"] is False


def test_our_own_readers_answer_alike(place: NeuronPlace, native: Prepared) -> None:
    result = place.prepared(weights="Streamed")
    assert result.shards_key != native.result.shards_key
    assert answer(place, result, weights="Streamed") == native.answer


def test_a_family_without_a_layout_is_served_either_way(place: NeuronPlace) -> None:
    place = place.another("sparse", seed=1, model_type="gpt_oss")
    refused = place.ended("prepare", weights="Streamed")
    assert refused.code == exits.BAD_INPUT
    assert refused.report.failure
    assert refused.report.failure.reason == "UnknownModelType"
    assert "set spec.sharding.weights: Native" in refused.report.failure.message
    result = place.prepared()
    assert result.model_type == "gpt_oss"
    assert answer(place, result)
    on_load = place.prepared(**ON_LOAD)
    assert on_load.compiled_key == result.compiled_key
    assert answer(place, on_load, **ON_LOAD)


def test_a_family_that_the_library_does_not_know_is_refused(place: NeuronPlace) -> None:
    ended = place.another("wizard", seed=1, model_type="wizard").ended("prepare")
    assert ended.code == exits.BAD_INPUT
    assert ended.report.failure
    assert ended.report.failure.reason == "ModelTypeUnknown"
    assert "wizard" in ended.report.failure.message


def test_two_fine_tunes_share_what_was_compiled_and_answer_each_by_itself(place: NeuronPlace, native: Prepared) -> None:
    tuned = place.another("tuned", seed=5)
    result = tuned.prepared()
    assert result.compiled_key == native.result.compiled_key
    assert (result.compiled_cache, result.shards_cache) == ("Hit", "Miss")
    assert result.shards_key != native.result.shards_key
    assert answer(tuned, result) != native.answer


def test_damage_is_found_and_built_again(place: NeuronPlace, native: Prepared) -> None:
    before = rank_files(place, native.result)
    file = place.artifacts / "shards" / str(native.result.shards_key) / "weights/tp1_sharded_checkpoint.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 0x40
    file.write_bytes(content)
    refused = place.ended("serve", **returned(native.result.to_json()), verification="Full")
    assert refused.code == exits.ARTIFACT_DAMAGED
    assert refused.report.failure
    assert "tp1_sharded_checkpoint.safetensors" in refused.report.failure.message
    again = place.prepared(verification="Full")
    assert (again.compiled_cache, again.shards_cache, again.shards_key) == ("Hit", "Miss", native.result.shards_key)
    assert "tp1_sharded_checkpoint.safetensors" in again.quarantined[0]
    assert rank_files(place, again) == before


def test_some_ranks_are_prepared_and_not_served(place: NeuronPlace, native: Prepared) -> None:
    flags = {**FLAGS, "start_rank_id": 1, "local_ranks_size": 2}
    part = place.prepared(neuronConfig=flags)
    assert part.shards_key != native.result.shards_key
    whole, some = rank_files(place, native.result), rank_files(place, part)
    assert some == {name: whole[name] for name in some}
    assert len(some) == 2
    refused = place.ended("serve", **{**returned(part.to_json()), "neuronConfig": flags})
    assert refused.code == exits.BAD_INPUT
    assert refused.report.failure
    assert refused.report.failure.reason == "PartialRanks"


def test_devices_in_use_for_a_while_are_waited_for(
    place: NeuronPlace, native: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEURON_STANDIN_FAIL", "cores-busy:2")
    before = len(place.called("load"))
    with served(place, native.result) as worker:
        report = worker.status()
        assert ask(worker) == native.answer
    assert phases(report).count("DevicesAwaited") == 1
    assert phases(report).index("DevicesAwaited") + 1 == phases(report).index("DeviceLoaded")
    assert len(place.called("load")) == before + 3


def test_without_devices_a_start_reads_no_weights(place: NeuronPlace, native: Prepared) -> None:
    before = len(place.called("load"))
    without = replace(place, devices=0)
    ended = without.ended("serve", **returned(native.result.to_json()))
    assert ended.report.failure
    assert ended.report.failure.reason == "NoNeuronDevice"
    assert len(place.called("load")) == before
