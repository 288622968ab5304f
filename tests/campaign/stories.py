"""What is asked of a NeuronModel, again and again: with each of the faults that its recording gives rise to."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from neuronmodel_api import names
from neuronmodel_api.config import WorkerConfig
from neuronmodel_api.report import Failure
from neuronmodel_operator.cluster import client
from tests.campaign.history import Chronicle
from tests.campaign.trial import Object, Trial
from tests.unit.operator.simulated import component

Act = Callable[[Trial], Awaitable[None]]
OWNED: Final = (client.SERVICE, client.DEPLOYMENT, client.JOB, client.POD)
UNUSABLE_DEGREE: Final = 7
"""For the source that is played."""


@dataclass(frozen=True)
class Story:
    name: str
    described: str
    act: Act
    """Returns when what was asked for is there."""
    set_up: Act | None = None
    """What was before, without a fault."""


async def _start(trial: Trial) -> None:
    await trial.make()
    await trial.until_serving()


async def _start_on_load(trial: Trial) -> None:
    await trial.make(sharding={"strategy": "ShardOnLoad"})
    await trial.until_serving()


async def _change(trial: Trial) -> None:
    await trial.change({"parallelism": {"tensorParallelDegree": 2}})
    await trial.until_serving()


async def _fail_and_mend(trial: Trial) -> None:
    trial.behaviour.fails = _fails
    await trial.make(parallelism={"tensorParallelDegree": UNUSABLE_DEGREE})
    await trial.until_ready_is("False", "TensorParallelUnsupported")
    await trial.change({"parallelism": {"tensorParallelDegree": 2}})
    await trial.until_serving()


def _fails(config: WorkerConfig) -> Failure | None:
    if config.neuron_config.get("tp_degree") != UNUSABLE_DEGREE:
        return None
    message = f"tensorParallelDegree {UNUSABLE_DEGREE} does not divide 8 heads. Choose 1, 2, 4 or 8."
    return Failure(reason="TensorParallelUnsupported", message=message, final=True)


async def _crash(trial: Trial) -> None:
    def is_recovered(chronicle: Chronicle) -> bool:
        starts = (chronicle.model() or {}).get("status", {}).get("starts", ())
        return len(starts) == 2 and starts[0]["outcome"] == "Ready"

    trial.stage.workers.crash(trial.namespace)
    await trial.chronicle.until(is_recovered, "a second start that is over")
    await trial.until_serving()


async def _scale(trial: Trial) -> None:
    await trial.change({"serving": {"replicas": 2}})
    await trial.chronicle.until(lambda chronicle: _says(chronicle, "2 of 2 workers answer."), "2 workers")
    # A worker that goes before it was heard takes what its start was made of with it.
    await trial.chronicle.until(_has_heard_of_every_start, "2 reports")
    await trial.change({"serving": {"replicas": 0}})
    await trial.until_ready_is("False", "ScaledToZero")
    # A change that follows at once may find workers that are about to go: another story each time.
    await trial.chronicle.until(lambda chronicle: not _workers(chronicle), "no workers")
    await trial.change({"serving": {"replicas": 1}})
    await trial.until_serving()


def _says(chronicle: Chronicle, message: str) -> bool:
    conditions = (chronicle.model() or {}).get("status", {}).get("conditions", ())
    return any((c["type"], c["status"], c["message"]) == ("Ready", "True", message) for c in conditions)


def _has_heard_of_every_start(chronicle: Chronicle) -> bool:
    return all("tier" in start for start in (chronicle.model() or {}).get("status", {}).get("starts", ()))


def _workers(chronicle: Chronicle) -> list[Object]:
    return [pod for pod in chronicle.of_kind(client.POD) if component(pod) == names.COMPONENT_SERVE]


async def _start_with_delete(trial: Trial) -> None:
    await trial.make(artifacts={"template": trial.template, "retention": "Delete"})
    await trial.until_serving()


async def _delete(trial: Trial) -> None:
    await trial.delete()
    await trial.until_gone()
    # What it owned goes when the garbage collector comes to it.
    await trial.chronicle.until(lambda chronicle: not any(map(chronicle.of_kind, OWNED)), "rid of its children")


STORIES: Final = (
    Story("start", "a start that shards on compile", _start),
    Story("load", "a start that shards on load", _start_on_load),
    Story("change", "a change of the tensor parallel degree", _change, _start),
    Story("fail", "a prepare that fails for good, and its mend", _fail_and_mend),
    Story("crash", "a worker that is killed while it serves", _crash, _start),
    Story("scale", "one replica, two, none and one", _scale, _start),
    Story("retain", "a deletion with retention Retain", _delete, _start),
    Story("delete", "a deletion with retention Delete", _delete, _start_with_delete),
)
