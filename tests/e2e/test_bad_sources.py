"""Checkpoints and claims that are wrong: a reason each, and recovery without deleting the NeuronModel."""

import shutil
from pathlib import Path

import pytest

from neuronmodel_api.config import Engine

from . import checkpoints
from .capital import MODEL
from .chat import completion
from .cluster import Object
from .neuronmodels import ON_TRN2, Applied, neuron_model
from .room import Room, claim
from .scenarios import Scenario, apply_all, assert_explained

SHARDED_FILE = "model-00002-of-00002.safetensors"


def claim_missing(room: Room) -> Object:
    return neuron_model("claim-missing", room.tiny("claim-missing"), claim="later")


def make_claim(room: Room, model: Applied) -> None:
    room.cluster.apply(claim("later", room.namespace, storage_class="models", size="1Gi", mode="ReadOnlyMany"))


def path_missing(room: Room) -> Object:
    return neuron_model("path-missing", room.path("path-missing"))


def make_path(room: Room, model: Applied) -> None:
    """Nobody says so: the operator's own next attempt finds it."""
    room.tiny("path-missing")


def no_config(room: Room) -> Object:
    path = room.tiny("no-config")
    (room.folder / "no-config/config.json").unlink()
    return neuron_model("no-config", path)


def write_whole(room: Room, model: Applied) -> None:
    shutil.rmtree(room.folder / model.name)
    room.tiny(model.name, num_files=2)
    model.retry()


def unknown_type(room: Room) -> Object:
    path = room.tiny("unknown-type")
    checkpoints.set_config(room.folder / "unknown-type", model_type="wizard")
    return neuron_model("unknown-type", path)


def file_missing(room: Room) -> Object:
    path = room.tiny("file-missing", num_files=2)
    sharded_file(room, "file-missing").unlink()
    return neuron_model("file-missing", path)


def truncated(room: Room) -> Object:
    path = room.tiny("truncated", num_files=2)
    checkpoints.truncate(sharded_file(room, "truncated"))
    return neuron_model("truncated", path)


def lying_header(room: Room) -> Object:
    path = room.tiny("lying-header", num_files=2)
    checkpoints.make_header_lie(sharded_file(room, "lying-header"))
    return neuron_model("lying-header", path, strategy="ShardOnLoad")


def sharded_file(room: Room, name: str) -> Path:
    return room.folder / name / SHARDED_FILE


def refused_degree(degree: int) -> Scenario:
    name = f"degree-{degree}"
    return Scenario(
        name,
        breaks=lambda room: neuron_model(name, MODEL, degree=degree),
        reason="LayoutRefused",
        says=(str(degree), "9"),
        repair=lambda room, model: model.change(
            model={"source": {"persistentVolumeClaim": {"path": room.tiny(name)}}},
            parallelism={"tensorParallelDegree": 3},
        ),
    )


def host_path(room: Room) -> Object:
    manifest = neuron_model("host-path", room.tiny("host-path"))
    manifest["spec"]["model"]["source"] = {"hostPath": {"path": str(room.folder / "host-path")}}
    return manifest


def use_the_claim(room: Room, model: Applied) -> None:
    on_claim = {"claimName": "models", "path": room.path("host-path")}
    model.change(model={"source": {"hostPath": None, "persistentVolumeClaim": on_claim}})


def no_engine(room: Room) -> Object:
    """Engine Neuron with an image that has none of it; its Job goes to the node that stands for a trn2.48xlarge."""
    return neuron_model("no-engine", room.tiny("no-engine"), engine=Engine.NEURON.value)


def compute_on_the_processors(room: Room, model: Applied) -> None:
    """Where the Job had its volume bound."""
    model.change(engine="CPU", worker=ON_TRN2)


def no_vllm(room: Room) -> Object:
    return neuron_model("no-vllm", room.tiny("no-vllm"), serving={"server": "VLLM"})


SCENARIOS = (
    Scenario("claim-missing", claim_missing, "SourceClaimMissing", ("later", "claim", "Make it"), make_claim),
    Scenario("path-missing", path_missing, "SourceNotFound", ("path-missing", "config.json"), make_path),
    Scenario("no-config", no_config, "ConfigMissing", ("no-config", "config.json", "checkpoint"), write_whole),
    Scenario("unknown-type", unknown_type, "UnknownModelType", ("wizard", "llama"), write_whole),
    Scenario("file-missing", file_missing, "CheckpointFileMissing", (SHARDED_FILE,), write_whole),
    Scenario("truncated", truncated, "CheckpointTruncated", (SHARDED_FILE, "again"), write_whole),
    Scenario("lying-header", lying_header, "CheckpointHeaderInvalid", (SHARDED_FILE, "again"), write_whole),
    refused_degree(2),
    refused_degree(4),
    Scenario("host-path", host_path, "HostPathNotAllowed", ("hostPath", "allowHostPath"), use_the_claim),
    Scenario("no-engine", no_engine, "NoEngine", ("Neuron",), compute_on_the_processors),
    Scenario(
        "no-vllm",
        no_vllm,
        "NoEngine",
        ("no vLLM", "spec.worker.image", "spec.serving.server"),
        repair=lambda room, model: model.change(serving={"server": None}),
    ),
)


@pytest.fixture(scope="module")
def broken(room: Room) -> dict[str, Applied]:
    return apply_all(room, SCENARIOS)


@pytest.fixture(scope="module")
def repaired(room: Room, broken: dict[str, Applied]) -> dict[str, Applied]:
    for scenario in SCENARIOS:
        scenario.repair(room, broken[scenario.name])
    return broken


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_what_is_wrong_is_reported(broken: dict[str, Applied], scenario: Scenario) -> None:
    assert_explained(scenario, broken[scenario.name])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_put_right_it_becomes_ready(repaired: dict[str, Applied], scenario: Scenario) -> None:
    model = repaired[scenario.name]
    model.wait_for_start()
    assert completion(model, "w1 w2 w3").strip()
