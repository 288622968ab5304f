"""One volume for several NeuronModels: every set is built once, from what its key says, and served only while whole."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from neuronmodel_api.status import ArtifactsStatus, Start

from . import checkpoints, reference
from .accounting import phases
from .chat import completion
from .neuronmodels import ON_TRN2, Applied, Expected, wait_for_starts
from .room import Room
from .scenarios import event_reasons
from .waiting import eventually

PROMPT = "w1 w2 w3"
TOKENS = 12
OURS = {"template": None, "persistentVolumeClaim": {"claimName": "ours"}}
EVERYWHERE = {"template": None, "persistentVolumeClaim": {"claimName": "everywhere"}}


@dataclass(frozen=True)
class Sharing:
    """`first` and `twin` serve one checkpoint, `tuned` and `checked` another one each, all from one volume of a node;
    `here` and `there` serve one from a volume that both nodes write."""

    room: Room
    models: dict[str, Applied]
    first_starts: dict[str, Start]
    built: dict[str, ArtifactsStatus]
    """As their first `prepare` left them."""
    ours: Path
    everywhere: Path

    def answer(self, name: str) -> str:
        return completion(self.models[name], PROMPT, num_tokens=TOKENS)

    def expected(self, checkpoint: str, of: str = "") -> str:
        return reference.answer(self.room.folder / checkpoint, PROMPT, num_tokens=TOKENS, of=of)


@pytest.fixture(scope="module")
def sharing(room: Room) -> Sharing:
    """All at once: who comes second waits for who builds, or finds it built."""
    ours = room.claim_volume("ours", "named-1")
    everywhere = room.claim_volume("everywhere", "shared-0", mode="ReadWriteMany")
    one, other, third = (room.tiny(name, seed=seed) for name, seed in (("one", 1), ("other", 2), ("third", 3)))
    applied = {
        "first": room.neuron_model("first", one, artifacts=OURS),
        "twin": room.neuron_model("twin", one, artifacts=OURS),
        "tuned": room.neuron_model("tuned", other, artifacts=OURS),
        "checked": room.neuron_model("checked", third, artifacts=OURS | {"verification": "Full"}),
        "here": room.neuron_model("here", one, artifacts=EVERYWHERE),
        "there": room.neuron_model("there", one, artifacts=EVERYWHERE, worker=ON_TRN2),
    }
    models = {name: model for name, (model, _) in applied.items()}
    starts = wait_for_starts(*map(Expected, models.values()))
    built = {name: artifacts(model) for name, model in models.items()}
    return Sharing(room, models, dict(zip(models, starts, strict=True)), built, ours, everywhere)


def artifacts(model: Applied) -> ArtifactsStatus:
    found = model.status.artifacts
    assert found is not None
    return found


def sets(volume: Path, kind: str) -> set[str]:
    """The keys of the sealed sets."""
    return {manifest.parent.name for manifest in volume.glob(f"{kind}/*/manifest.json")}


@pytest.mark.parametrize("names", [("first", "twin"), ("here", "there")])
def test_what_two_need_is_built_once(sharing: Sharing, names: tuple[str, str]) -> None:
    """Also by pods on two nodes."""
    one, other = (sharing.built[name] for name in names)
    assert (one.compiled_key, one.shards_key) == (other.compiled_key, other.shards_key)
    assert {one.shards_cache, other.shards_cache} == {"Hit", "Miss"}
    assert sharing.answer(names[0]) == sharing.answer(names[1]) == sharing.expected("one")


def test_they_run_on_two_nodes(sharing: Sharing) -> None:
    assert {sharing.first_starts[name].node_name for name in ("here", "there")} == {"plain", "trn2"}


def test_fine_tunes_share_the_compiled_model_and_answer_with_their_own_weights(sharing: Sharing) -> None:
    ours = [sharing.built[name] for name in ("first", "twin", "tuned", "checked")]
    assert {each.compiled_key for each in ours} == sets(sharing.ours, "compiled")
    assert sum(each.compiled_cache == "Miss" for each in ours) == 1
    assert len({each.shards_key for each in ours}) == 3
    assert {each.shards_key for each in ours} == sets(sharing.ours, "shards")
    assert sharing.answer("tuned") == sharing.expected("other") != sharing.expected("one")


@dataclass(frozen=True)
class Shaken:
    starts: dict[str, Start]
    after: dict[str, ArtifactsStatus]
    changed_to: str
    """What `tuned` has to answer with its new weights."""


@pytest.fixture(scope="module")
def shaken(sharing: Sharing) -> Shaken:
    """Files are touched, changed and damaged; then every worker is started again."""
    room = sharing.room
    sharing.expected("other")  # while it is what it was
    os.utime(room.folder / "one" / "model.safetensors")
    checkpoints.write_weights(room.folder / "other", seed=5)
    damage(sharing.ours, sharing.built["checked"], at_end=True)
    damage(sharing.everywhere, sharing.built["there"], at_end=False)
    names = ("first", "tuned", "checked", "there")
    expected = []
    for name in names:
        model = sharing.models[name]
        before = model.finished_start()
        assert before is not None
        model.cluster.delete("Pod", model.serving_pod()["metadata"]["name"], model.namespace)
        expected.append(Expected(model, None, before.id))
    starts = wait_for_starts(*expected)
    after = {name: artifacts(sharing.models[name]) for name in names}
    return Shaken(dict(zip(names, starts, strict=True)), after, sharing.expected("other", of="changed"))


def damage(volume: Path, sealed: ArtifactsStatus, *, at_end: bool) -> None:
    """One byte of a rank's file: of its last tensor, or of its header."""
    assert sealed.shards_key
    file = volume / "shards" / sealed.shards_key / "weights" / "tp1_sharded_checkpoint.safetensors"
    with file.open("r+b") as opened:
        opened.seek(-20 if at_end else 20, os.SEEK_END if at_end else os.SEEK_SET)
        (byte,) = opened.read(1)
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


def test_a_touched_file_rebuilds_nothing(sharing: Sharing, shaken: Shaken) -> None:
    before, after = sharing.built["first"], shaken.after["first"]
    assert (after.compiled_key, after.shards_key) == (before.compiled_key, before.shards_key)
    assert (after.compiled_cache, after.shards_cache) == ("Hit", "Hit")
    assert not {"Compiled", "Sharded"} & set(phases(shaken.starts["first"]))
    assert sharing.answer("first") == sharing.expected("one")


def test_a_changed_weight_rebuilds_shards_and_not_the_compiled_model(sharing: Sharing, shaken: Shaken) -> None:
    """Its file is as long as it was."""
    before, after = sharing.built["tuned"], shaken.after["tuned"]
    assert after.compiled_key == before.compiled_key
    assert after.shards_key != before.shards_key
    assert (after.compiled_cache, after.shards_cache) == ("Hit", "Miss")
    assert "model.safetensors" in (after.missed or "")
    assert "Compiled" not in phases(shaken.starts["tuned"])
    assert sharing.answer("tuned") == shaken.changed_to != sharing.expected("other")


@pytest.mark.parametrize(
    ("name", "volume", "checkpoint"), [("there", "everywhere", "one"), ("checked", "ours", "third")]
)
def test_damage_is_found_before_serving_and_rebuilt(
    sharing: Sharing, shaken: Shaken, name: str, volume: str, checkpoint: str
) -> None:
    """In a header by the quick check, in the data by the full one."""
    before, after = sharing.built[name], shaken.after[name]
    assert after.shards_key == before.shards_key
    assert (after.compiled_cache, after.shards_cache) == ("Hit", "Miss")
    folder: Path = getattr(sharing, volume)
    reasons = list(folder.glob("quarantine/shards-*.reason.txt"))
    assert [reason for reason in reasons if "tp1_sharded_checkpoint" in reason.read_text()], reasons
    model = sharing.models[name]
    eventually(lambda: "ArtifactQuarantined" in event_reasons(model), what="an Event of it")
    assert sharing.answer(name) == sharing.expected(checkpoint)


def test_the_one_next_to_it_was_not_disturbed(sharing: Sharing, shaken: Shaken) -> None:
    """`here` reads the set that was damaged and rebuilt while it served."""
    start = sharing.models["here"].last_start
    assert start is not None
    assert start.id == sharing.first_starts["here"].id
    assert shaken.starts["there"].id != sharing.first_starts["there"].id
    assert sharing.answer("here") == sharing.expected("one")
