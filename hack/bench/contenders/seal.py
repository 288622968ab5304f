"""Ours: what `prepare` builds of a checkpoint, on the artifacts volume next to it. Other contenders begin with that."""

from hack.bench.contenders.task import Task, Timed
from hack.bench.contenders.worker import job, prepared, probed


def prepare(task: Task) -> Timed:
    run = job(task, probed(task.volume))

    def seal() -> None:
        prepared(run)

    return seal
