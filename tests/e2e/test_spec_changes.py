"""A change of the spec rebuilds what it must, and nothing else."""

from dataclasses import dataclass

import pytest

from neuronmodel_api import names
from neuronmodel_api.conditions import ConditionType
from neuronmodel_api.status import ArtifactsStatus, Cause

from . import checkpoints, reference
from .accounting import phases
from .chat import completion
from .neuronmodels import Applied
from .room import Room
from .waiting import eventually

PROMPT = "w1 w2 w3"
TOKENS = 12
NO_SUCH_IMAGE = "localhost:5000/neuronmodel/no-such-worker:1"


@dataclass(frozen=True)
class Before:
    """What a change is compared with."""

    start: str
    pod: str
    jobs: frozenset[str]
    artifacts: ArtifactsStatus


def before(model: Applied) -> Before:
    start = model.wait_for_start()
    artifacts = model.status.artifacts
    assert artifacts is not None
    return Before(start.id, uid_of_pod(model), jobs(model), artifacts)


def uid_of_pod(model: Applied) -> str:
    uid: str = model.serving_pod()["metadata"]["uid"]
    return uid


def jobs(model: Applied) -> frozenset[str]:
    return frozenset(job["metadata"]["uid"] for job in model.prepare_jobs())


def keys(artifacts: ArtifactsStatus | None) -> tuple[str | None, str | None]:
    assert artifacts is not None
    return artifacts.compiled_key, artifacts.shards_key


@pytest.fixture(scope="module")
def model(room: Room) -> Applied:
    room.tiny("tuned", seed=2)
    applied, since = room.neuron_model("changing", room.tiny("changing", seed=1))
    applied.wait_for_start(since=since)
    return applied


def expected(room: Room, checkpoint: str) -> str:
    return reference.answer(room.folder / checkpoint, PROMPT, num_tokens=TOKENS)


def test_it_answers_as_transformers_does(room: Room, model: Applied) -> None:
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected(room, "changing")


def test_resources_roll_the_pod_and_rebuild_nothing(model: Applied) -> None:
    was = before(model)
    since = model.change(worker={"resources": {"requests": {"cpu": "30m"}}})
    start = model.wait_for_start(since=since, after=was.start)
    assert start.cause == Cause.SPEC_CHANGED
    assert {phase.stage for phase in start.phases} == {"Serve"}
    assert uid_of_pod(model) != was.pod
    assert jobs(model) == was.jobs
    assert keys(model.status.artifacts) == keys(was.artifacts)


def test_a_degree_rebuilds_shards_and_gives_the_same_answer(room: Room, model: Applied) -> None:
    was = before(model)
    since = model.change(parallelism={"tensorParallelDegree": 1})
    start = model.wait_for_start(since=since, after=was.start)
    assert "Sharded" in phases(start)
    artifacts = model.status.artifacts
    assert artifacts is not None
    assert artifacts.cache == "Miss"
    assert artifacts.shards_key != was.artifacts.shards_key
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected(room, "changing")


def test_going_back_finds_what_was_there(model: Applied) -> None:
    was = before(model)
    model.change(parallelism={"tensorParallelDegree": 3})
    start = model.wait_for_start(after=was.start)
    assert start.cache == "Hit"
    assert not {"Sharded", "Compiled"} & set(phases(start))


def test_flags_of_the_graph_compile_and_shard_nothing(model: Applied) -> None:
    was = before(model)
    model.change(compile={"sequenceLength": 192})
    start = model.wait_for_start(after=was.start)
    artifacts = model.status.artifacts
    assert artifacts is not None
    assert artifacts.compiled_key != was.artifacts.compiled_key
    assert artifacts.shards_key == was.artifacts.shards_key
    assert "Compiled" in phases(start)
    assert "Sharded" not in phases(start)


def test_a_fine_tune_shards_and_compiles_nothing(room: Room, model: Applied) -> None:
    was = before(model)
    model.change(model={"source": {"persistentVolumeClaim": {"path": room.path("tuned")}}})
    start = model.wait_for_start(after=was.start)
    artifacts = model.status.artifacts
    assert artifacts is not None
    assert artifacts.compiled_key == was.artifacts.compiled_key
    assert artifacts.shards_key != was.artifacts.shards_key
    assert "Compiled" not in phases(start)
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected(room, "tuned")


def test_another_strategy_gives_the_same_answer(room: Room, model: Applied) -> None:
    was = before(model)
    model.change(sharding={"strategy": "ShardOnLoad"})
    start = model.wait_for_start(after=was.start)
    assert start.strategy == "ShardOnLoad"
    assert [phase.stage for phase in start.phases if phase.name == "Sharded"] == ["Serve"]
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected(room, "tuned")


def test_suspending_frees_the_node_and_going_on_prepares_nothing(model: Applied) -> None:
    was = before(model)
    model.change(suspend=True)
    model.wait_for_condition(ConditionType.READY, "False", reason="Suspended")
    eventually(
        lambda: not model.children("Pod", names.COMPONENT_SERVE),
        what="the worker to go",
        instead=model.story,
    )
    assert model.condition(ConditionType.ARTIFACTS_READY)
    since = model.change(suspend=False)
    model.wait_for_start(since=since, after=was.start)
    assert jobs(model) == was.jobs


def test_an_image_that_is_not_there_stops_nobody_and_taking_it_back_restarts_nobody(room: Room, model: Applied) -> None:
    was = before(model)
    right = model.status.image
    model.change(worker={"image": NO_SUCH_IMAGE})
    condition = model.wait_for_condition(ConditionType.READY, "False", reason="ImagePullFailed")
    assert NO_SUCH_IMAGE in condition.message
    assert "goes on answering" in condition.message
    assert uid_of_pod(model) == was.pod
    assert completion(model, PROMPT, num_tokens=TOKENS) == expected(room, "tuned")
    model.change(worker={"image": right})
    model.wait_for_condition(ConditionType.READY, "True")
    assert uid_of_pod(model) == was.pod
    eventually(lambda: jobs(model) <= was.jobs, what="the Job that tried the image to go", instead=model.story)


def test_a_checkpoint_that_changed_under_its_path_is_prepared_again(room: Room, model: Applied) -> None:
    """The next start notices, and no answer comes from the shards of the old one."""
    was = before(model)
    model.change(sharding={"strategy": "ShardOnCompile"})
    start = model.wait_for_start(after=was.start)
    checkpoints.write_tiny(room.folder / "other", seed=3)
    wanted = expected(room, "other")
    checkpoints.replace_by(room.folder / "tuned", room.folder / "other")
    model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)
    model.wait_for_start(after=start.id)
    assert completion(model, PROMPT, num_tokens=TOKENS) == wanted
    assert "SourceChanged" in model.cluster.kubectl("describe", "nm", model.name, f"--namespace={model.namespace}")
