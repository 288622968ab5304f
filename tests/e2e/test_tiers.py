"""A scratch volume keeps copies of what is loaded: a restart on that node reads them."""

import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuronmodel_api.status import Start

from . import outages, reference
from .chat import completion
from .neuronmodels import Applied, Expected, wait_for_starts
from .room import Room
from .scenarios import event_reasons
from .waiting import eventually

PROMPT = "w1 w2 w3"
TOKENS = 12
ON_A_CLAIM = {"persistentVolumeClaim": {"claimName": "nvme"}}


@dataclass(frozen=True)
class Kept:
    """One copies shards to an emptyDir, one shards and one its source to a claim on a local volume."""

    room: Room
    models: dict[str, Applied]
    first_starts: dict[str, Start]
    nvme: Path

    def restart(self, *names: str) -> dict[str, Start]:
        expected = []
        for name in names:
            model = self.models[name]
            before = model.finished_start()
            assert before is not None
            if name == "emptied":
                assert outages.send(model.serving_pod(), "neuronmodel", signal.SIGKILL)
            else:
                model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)
            expected.append(Expected(model, None, before.id))
        return dict(zip(names, wait_for_starts(*expected), strict=True))


@pytest.fixture(scope="module")
def kept(room: Room) -> Kept:
    nvme = room.claim_volume("nvme", "named-2")
    path = room.tiny("copied")
    applied = {
        "emptied": room.neuron_model("emptied", path, scratch={"emptyDir": {"sizeLimit": "1Gi"}}),
        "claimed": room.neuron_model("claimed", path, scratch=ON_A_CLAIM),
        "sliced": room.neuron_model("sliced", path, strategy="ShardOnLoad", scratch=ON_A_CLAIM),
    }
    models = {name: model for name, (model, _) in applied.items()}
    starts = wait_for_starts(*map(Expected, models.values()))
    return Kept(room, models, dict(zip(models, starts, strict=True)), nvme)


@pytest.fixture(scope="module")
def again(kept: Kept) -> dict[str, Start]:
    for name in ("emptied", "claimed"):
        wait_for_copy(kept.models[name], "/scratch/tier/shards/*/manifest.json")
    wait_for_copy(kept.models["sliced"], "/scratch/tier/source/*/copy.json")
    return kept.restart("emptied", "claimed", "sliced")


def wait_for_copy(model: Applied, file: str) -> None:
    """It is sealed after the model answers."""
    pod = model.serving_pod()["metadata"]["name"]
    listed = f"ls {file}"
    eventually(
        lambda: "No such file" not in model.cluster.execute(model.namespace, pod, listed),
        what=f"{model.name} to have sealed its copy",
        instead=lambda: model.cluster.execute(model.namespace, pod, "find /scratch"),
    )


def test_the_first_start_reads_the_volumes(kept: Kept) -> None:
    assert {name: start.tier for name, start in kept.first_starts.items()} == {
        "emptied": "Artifacts",
        "claimed": "Artifacts",
        "sliced": "Source",
    }


@pytest.mark.parametrize(
    ("name", "cause"), [("emptied", "ContainerRestarted"), ("claimed", "PodReplaced"), ("sliced", "PodReplaced")]
)
def test_a_restart_on_that_node_reads_the_copy(kept: Kept, again: dict[str, Start], name: str, cause: str) -> None:
    start = again[name]
    assert (start.cause, start.tier, start.notes) == (cause, "Scratch", ())
    expected = reference.answer(kept.room.folder / "copied", PROMPT, num_tokens=TOKENS)
    assert completion(kept.models[name], PROMPT, num_tokens=TOKENS) == expected


@pytest.mark.usefixtures("again")
def test_damaged_copies_are_skipped_and_reported(kept: Kept) -> None:
    (ranked,) = kept.nvme.glob("tier/shards/*/weights/tp0_sharded_checkpoint.safetensors")
    (copied,) = kept.nvme.glob("tier/source/*/model.safetensors")
    for file in (ranked, copied):
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 1000)
    starts = kept.restart("claimed", "sliced")
    assert {name: start.tier for name, start in starts.items()} == {"claimed": "Artifacts", "sliced": "Source"}
    expected = reference.answer(kept.room.folder / "copied", PROMPT, num_tokens=TOKENS)
    for name, start in starts.items():
        assert start.notes, f"{name} noted nothing"
        assert completion(kept.models[name], PROMPT, num_tokens=TOKENS) == expected
    model = kept.models["claimed"]
    eventually(lambda: "ScratchTierDamaged" in event_reasons(model), what="an Event of it")
