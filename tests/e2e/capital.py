"""The real model, served both ways side by side: what several modules ask, look at and restart."""

from dataclasses import dataclass

from neuronmodel_api.status import Start
from tests.levels.levels import LOWEST

from .neuronmodels import Applied, Expected, merged, wait_for_starts
from .room import Room

MODEL = "SmolLM2-135M-Instruct"
DEGREE = 3
PROMPT = "The capital of France is"
SPEC = {
    # Long enough for the longest answer that is under way when a worker is asked to end.
    "worker": {"terminationGracePeriodSeconds": 300},
    "compile": {"torchDtype": "bfloat16", "sequenceLength": 512, "maxContextLength": 256},
    "artifacts": {"template": {"size": "2Gi"}},
}


OLDEST = {"env": [{"name": name, "value": value} for name, value in LOWEST.items()]}
"""For `worker`: libraries compute as on the oldest processor that there is."""


@dataclass(frozen=True)
class Capital:
    """`kept` keeps its shards on a volume, `sliced` slices the checkpoint at every start, and computes as on the oldest
    processor."""

    room: Room
    kept: Applied
    sliced: Applied
    first_of_kept: Start
    first_of_sliced: Start
    source_before: list[tuple[str, int, int, int]]
    """What `file_facts` returned for the checkpoint before any pod had mounted it."""


def serve(room: Room) -> Capital:
    """Both from nothing to Ready; their times agree with a stopwatch here."""
    before = file_facts(room)
    kept, kept_since = room.neuron_model("kept", MODEL, degree=DEGREE, strategy="ShardOnCompile", **SPEC)
    sliced, sliced_since = room.neuron_model(
        "sliced", MODEL, degree=DEGREE, strategy="ShardOnLoad", **merged(SPEC, {"worker": OLDEST})
    )
    of_kept, of_sliced = wait_for_starts(Expected(kept, kept_since), Expected(sliced, sliced_since))
    return Capital(room, kept, sliced, of_kept, of_sliced, before)


def file_facts(room: Room) -> list[tuple[str, int, int, int]]:
    """Name, owner, group and mode of every file and folder of the checkpoint."""
    source = room.models / MODEL
    paths = [source, *sorted(source.rglob("*"))]
    return [(str(path), path.lstat().st_uid, path.lstat().st_gid, path.lstat().st_mode) for path in paths]
