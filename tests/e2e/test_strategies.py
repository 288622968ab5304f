"""How shards come to be: chosen by the operator for a reason that it states, or sealed behind a model that answers."""

from dataclasses import dataclass

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import Start, StrategyStatus

from . import reference
from .accounting import phases
from .capital import MODEL, PROMPT
from .chat import completion
from .neuronmodels import Applied, Expected, wait_for_starts
from .room import Room
from .waiting import eventually

BIG = 120_000
"""Words: two tensors of 69 MB in 64 bits, of 35 in 32, make a file that a probe can time."""
MARGIN = 0.8
"""A strategy that is in force stays unless the other takes less than this part of its time: docs/strategies.md."""


@dataclass(frozen=True)
class Started:
    """`fresh` names no strategy; `smaller` keeps shards of a quarter of the checkpoint's bytes, `behind` seals them
    late."""

    room: Room
    models: dict[str, Applied]
    starts: dict[str, Start]


@pytest.fixture(scope="module")
def started(room: Room) -> Started:
    compiled = {"torchDtype": "float32", "sequenceLength": 64, "maxContextLength": 32}
    two_gigabytes = {"template": {"size": "2Gi"}}
    wide = room.tiny("wide", vocabulary=BIG, wide=True)
    applied = {
        "fresh": room.neuron_model("fresh", MODEL, strategy=None, compile=compiled, artifacts=two_gigabytes),
        "smaller": room.neuron_model("smaller", wide, compile={**compiled, "torchDtype": "bfloat16"}),
        "behind": room.neuron_model("behind", room.tiny("behind"), sharding={"seal": "Behind"}),
    }
    models = {name: model for name, (model, _) in applied.items()}
    starts = wait_for_starts(*map(Expected, models.values()))
    return Started(room, models, dict(zip(models, starts, strict=True)))


def test_auto_weighs_shards_of_twice_the_bytes_against_the_checkpoint(started: Started) -> None:
    """Which it loads, where one volume is about as fast as the other; on a busy machine a probe may say that the one of
    the shards is three times as fast, and what follows from that has to hold."""
    model = started.models["fresh"]
    strategy = model.status.strategy
    assert strategy is not None
    assert strategy.message
    inputs = strategy.inputs
    assert inputs is not None
    assert inputs.shard_bytes > 1.9 * inputs.source_bytes
    # Building them counts too, where probes find the volume of the shards twice as fast as that of the checkpoint.
    pays_some_day = (
        inputs.shard_bytes / inputs.read_bytes_per_second < inputs.source_bytes / inputs.load_bytes_per_second
    )
    expected = ("ShardOnLoad", "WeightsChangeOften" if pays_some_day else "SourceLoadsFaster")
    if inputs.on_compile_milliseconds < inputs.on_load_milliseconds:
        expected = ("ShardOnCompile", "ShardsLoadFaster")
    assert (strategy.in_force, strategy.reason) == expected
    assert started.starts["fresh"].strategy == strategy.in_force
    assert "Paris" in completion(model, PROMPT)


def test_auto_stays_with_shards_that_are_there_and_a_quarter_as_much(started: Started) -> None:
    model, first = started.models["smaller"], started.starts["smaller"]
    assert first.strategy == "ShardOnCompile"
    model.change(sharding={"strategy": None})
    model.wait_for_condition(ConditionType.READY, "True")
    strategy = eventually(lambda: chosen(model), what="a choice", instead=model.story)
    # How fast small files are read on a busy machine says little; that the choice follows from it has to hold.
    inputs = strategy.inputs
    assert inputs is not None
    assert inputs.shard_bytes < 0.26 * inputs.source_bytes
    expected = ("ShardOnCompile", "TooLittleDifference")
    if inputs.on_compile_milliseconds < inputs.on_load_milliseconds:
        expected = ("ShardOnCompile", "ShardsLoadFaster")
    elif inputs.on_load_milliseconds < MARGIN * inputs.on_compile_milliseconds:
        expected = ("ShardOnLoad", "SourceLoadsFaster")
    assert (strategy.in_force, strategy.reason) == expected
    artifacts = model.status.artifacts
    assert artifacts is not None
    assert artifacts.compiled_cache == "Hit"
    if expected[0] == "ShardOnCompile":
        assert artifacts.shards_cache == "Hit"


def chosen(model: Applied) -> StrategyStatus | None:
    strategy = model.status.strategy
    return strategy if strategy and strategy.inputs else None


def test_a_choice_stays_while_nothing_changes(started: Started) -> None:
    model = started.models["fresh"]
    before, jobs = model.finished_start(), [job["metadata"]["uid"] for job in model.prepare_jobs()]
    assert before is not None
    model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)
    start = model.wait_for_start(after=before.id)
    assert start.strategy == before.strategy
    assert [job["metadata"]["uid"] for job in model.prepare_jobs()] == jobs


def test_shards_are_sealed_behind_and_read_by_the_next_start(started: Started) -> None:
    model, first = started.models["behind"], started.starts["behind"]
    assert (first.strategy, first.tier) == ("ShardOnCompile", "Source")
    assert [phase.stage for phase in first.phases if phase.name == "Sharded"] == ["Serve"]
    expected = reference.answer(started.room.folder / "behind", "w1 w2 w3", num_tokens=12)
    assert completion(model, "w1 w2 w3", num_tokens=12) == expected
    eventually(lambda: model.sealing == "Sealed", what="the shards to be sealed", instead=model.story)
    model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)
    start = model.wait_for_start(after=first.id)
    assert (start.tier, start.cause) == ("Artifacts", "PodReplaced")
    assert "Sharded" not in phases(start)
    assert completion(model, "w1 w2 w3", num_tokens=12) == expected


def test_a_worker_that_seals_writes_its_artifacts_and_others_do_not(started: Started) -> None:
    def read_only(model: Applied) -> bool:
        mounts = model.serving_pod()["spec"]["containers"][0]["volumeMounts"]
        return any(mount["mountPath"] == names.ARTIFACTS_MOUNT and mount.get("readOnly", False) for mount in mounts)

    assert {name: read_only(model) for name, model in started.models.items()} == {
        "fresh": True,
        "smaller": True,
        "behind": False,
    }
